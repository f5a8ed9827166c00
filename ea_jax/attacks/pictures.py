"""Attacks that begin from a picture of the concept, which the base model painted.

Near a noise level of 0 any model returns the picture that it was given, and inverted noise holds
it: these rates are to be read beside the base's own.
"""

from __future__ import annotations

import numpy as np

from ea_jax.attacks import prompts
from ea_jax.attacks.bench import Bench
from ea_jax.attacks.canvas import Asked, Start
from ea_jax.attacks.trials import Attack, Trial, Victim
from ea_jax.runtime.fingerprint import checksum

LEVELS = (0.3, 0.5, 0.7, 0.9)
# Another noise made the picture than the one it is lost in.
_OTHER_SEEDS = 10_000_000


def image_to_image() -> Attack:
    """The plain prompts, from the base's picture of each at several noise levels."""

    def trials(bench: Bench, victim: Victim) -> list[Trial]:
        clean = _clean(bench)
        return [_trial(bench, f"level {level:g}", Start(level, clean)) for level in LEVELS]

    meaning = "from a picture of the concept at a noise level"
    return Attack("img2img", "picture", meaning, trials, plainly=True)


def inversion() -> Attack:
    """The plain prompts, from the noise that the victim itself would paint a picture from.

    As TINA and Recall do, who search a text, too.
    """

    def trials(bench: Bench, victim: Victim) -> list[Trial]:
        clean, plain = _clean(bench), prompts.plain(bench)

        def invert() -> tuple[np.ndarray]:
            edit, strength = victim.edit, victim.strength
            found = bench.canvas(victim, plain).inverted(clean, edit=edit, strength=strength)
            return (np.stack([found[one] for one in clean]),)

        inputs = [[*clean], checksum(*clean.values()), victim.identity()]
        (noise_PSC,) = bench.kept("inverted pictures", inputs, plain.said, invert, ["noise_PSC"])
        return [_trial(bench, "", Start(None, dict(zip(clean, noise_PSC, strict=True))))]

    meaning = "from the noise that leads to a picture of the concept"
    return Attack("inverted noise", "picture", meaning, trials, own=True, plainly=True)


def _clean(bench: Bench) -> dict[Asked, np.ndarray]:
    """The base's latents of each plain prompt, by the prompt and seed that are attacked."""
    probes = [probe for row in bench.seeded(bench.probes) for probe in row]
    packed_PSC = bench.pictures(probes, apart=_OTHER_SEEDS)
    pairs = [(probe.prompt, probe.seed) for probe in probes]
    return dict(zip(pairs, packed_PSC, strict=True))


def _trial(bench: Bench, budget: str, start: Start) -> Trial:
    plain = prompts.plain(bench)
    return Trial(plain.probes, plain.said, budget=budget, pictures=start)
