"""Attacks that begin from a picture of the concept (img2img), which the base model painted.

Near a noise level of 0 any model returns the picture that it was given, so these rates are to be
read beside the base's own.
"""

from __future__ import annotations

from ea_jax.attacks import prompts
from ea_jax.attacks.bench import Bench
from ea_jax.attacks.canvas import Start
from ea_jax.attacks.trials import Attack, Trial, Victim
from ea_jax.evaluate.probes import Probe

LEVELS = (0.3, 0.5, 0.7, 0.9)
# Another noise made the picture than the one it is lost in.
_OTHER_SEEDS = 100_000


def image_to_image() -> Attack:
    """The plain prompts, from the base's picture of each at several noise levels."""
    return Attack(
        "img2img",
        "picture",
        "from a picture of the concept at a noise level",
        _trials,
        plainly=True,
    )


def _trials(bench: Bench, victim: Victim) -> list[Trial]:
    plain = prompts.plain(bench)
    pairs = [(probe.prompt, probe.seed) for row in bench.seeded(plain.probes) for probe in row]
    packed = bench.pictures([Probe(p, seed + _OTHER_SEEDS, ()) for p, seed in pairs])
    clean = dict(zip(pairs, packed, strict=True))
    return [
        Trial(plain.probes, plain.said, budget=f"level {level:g}", pictures=Start(level, clean))
        for level in LEVELS
    ]
