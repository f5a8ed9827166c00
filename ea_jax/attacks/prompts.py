"""Attacks by prompts alone: other spellings, synonyms, the word for one encoder only, settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from ea_jax.attacks import rounding
from ea_jax.attacks.bench import Bench
from ea_jax.attacks.canvas import Against, Said
from ea_jax.attacks.trials import Attack, Trial, Victim
from ea_jax.concepts import sentences
from ea_jax.concepts.encoding import Encoded
from ea_jax.evaluate import attacks as spellings
from ea_jax.evaluate.probes import Probe
from ea_jax.painter import Sampling

PLAIN = "plain"
GUIDANCES, STEPS, TEXT_LENGTHS = (1.0, 2.0, 7.0), (8, 50), (64,)
TRUE_CFG = 3.0


def black_box() -> list[Attack]:
    """Attacks that need no more than a prompt: `PLAIN` first, which is none."""
    found = [
        Attack(one.name, "black-box", one.meaning, _spelled(one)) for one in spellings.BLACK_BOX
    ]
    return [*found, Attack("synonym", "black-box", "a held-out word for the same", _synonyms)]


def split() -> list[Attack]:
    """The word in the prompt of one encoder; the other's prompt lacks it."""
    return [
        Attack("only T5", "settings", "the concept in T5's prompt alone", _only_t5),
        Attack("only CLIP", "settings", "the concept in CLIP's prompt alone", _only_clip),
    ]


def settings() -> list[Attack]:
    """The plain prompts under other settings than an erasure was trained with."""
    found = [
        Attack(
            f"guidance {value:g}",
            "settings",
            "another distilled guidance",
            _sampled(guidance=value),
        )
        for value in GUIDANCES
    ]
    found += [
        Attack(f"{count} steps", "settings", "another number of steps", _sampled(steps=count))
        for count in STEPS
    ]
    found += [
        Attack(
            f"{length} text tokens",
            "settings",
            "another text length",
            lambda bench, victim, length=length: [
                plain(bench, said=bench.say(_texts(bench.probes), length))
            ],
        )
        for length in TEXT_LENGTHS
    ]
    found += [
        Attack(
            "true CFG",
            "settings",
            f"classifier-free guidance {TRUE_CFG:g} away from the empty prompt",
            _against(lambda bench: [""] * len(bench.plain.texts.prompts)),
        ),
        Attack(
            "true CFG to the word",
            "settings",
            f"classifier-free guidance {TRUE_CFG:g} away from the prompt without the word",
            _against(_removed),
        ),
    ]
    found += [
        Attack(
            f"{form} base",
            "settings",
            f"the model's kernels in {form}, adapters on top",
            lambda bench, victim, form=form: [dataclasses.replace(plain(bench), rounded=form)],
        )
        for form in rounding.FORMATS
    ]
    return found


def plain(bench: Bench, *, said: Said | None = None, sampling: Sampling | None = None) -> Trial:
    """The plain prompts."""
    return Trial(bench.probes, said or bench.plain, sampling=sampling)


def _spelled(attack: spellings.Attack) -> Callable[[Bench, Victim], Iterable[Trial]]:
    def trials(bench: Bench, victim: Victim) -> list[Trial]:
        task = spellings.attacked(bench.task, attack)
        return [Trial(task.probes, bench.say(_texts(task.probes)))] if task.probes else []

    return trials


def _synonyms(bench: Bench, victim: Victim) -> list[Trial]:
    words = bench.synonyms
    if not words:
        return []
    probes = [
        dataclasses.replace(
            probe, prompt=sentences.exchange(probe.prompt, bench.word, words[n % len(words)])
        )
        for n, probe in enumerate(bench.probes)
    ]
    return [Trial(tuple(probes), bench.say(_texts(probes)))]


def _only_t5(bench: Bench, victim: Victim) -> list[Trial]:
    texts = bench.plain.texts
    mixed = Encoded(texts.prompts, texts.t5_UTD, _without(bench).pooled_UD)
    return [plain(bench, said=Said(mixed, bench.plain.word_UT))]


def _only_clip(bench: Bench, victim: Victim) -> list[Trial]:
    texts, word_UT = bench.plain.texts, bench.plain.word_UT
    mixed = Encoded(texts.prompts, _without(bench).t5_UTD, texts.pooled_UD)
    return [plain(bench, said=Said(mixed, np.zeros_like(word_UT)))]


def _without(bench: Bench) -> Encoded:
    """The plain prompts without the word, encoded, a row for each."""
    removed = _removed(bench)
    texts = bench.say(removed).texts
    rows = [texts.prompts.index(prompt) for prompt in removed]
    return Encoded(tuple(removed), texts.t5_UTD[rows], texts.pooled_UD[rows])


def _removed(bench: Bench) -> list[str]:
    """The plain prompts without the word."""
    return [sentences.remove(prompt, bench.word) for prompt in bench.plain.texts.prompts]


def _against(
    negative: Callable[[Bench], list[str]],
) -> Callable[[Bench, Victim], Iterable[Trial]]:
    """Trials with a negative prompt for each plain one."""

    def trials(bench: Bench, victim: Victim) -> list[Trial]:
        negatives = dict(zip(bench.plain.texts.prompts, negative(bench), strict=True))
        texts = bench.say(list(negatives.values())).texts
        return [dataclasses.replace(plain(bench), against=Against(texts, negatives, TRUE_CFG))]

    return trials


def _sampled(**changes: float) -> Callable[[Bench, Victim], Iterable[Trial]]:
    def trials(bench: Bench, victim: Victim) -> list[Trial]:
        if "guidance" in changes and bench.forward().guidance is None:
            return []
        return [plain(bench, sampling=dataclasses.replace(bench.painter.sampling, **changes))]

    return trials


def _texts(probes: Iterable[Probe]) -> list[str]:
    return [probe.prompt for probe in probes]
