"""Probes: prompts with seeds, and what their pictures are asked.

One picture can answer several questions: a prompt of the erased concept tells whether the concept
is still there, whether the rest of the prompt is, and whether it is a picture at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from ea_jax.concepts import forms
from ea_jax.flux.finite import require_finite

Answers = frozenset[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Probe:
    """A prompt, a seed, and its questions.

    Attributes:
      prompt: text as given to the pipeline.
      seed: of the noise; the same for base and erased.
      questions: (metric's name, answers) pairs; a picture counts when it shows *all* of a
        question's answers, each a (head, label) of the detector, e.g. ("style", "sepia").
    """

    prompt: str
    seed: int
    questions: tuple[tuple[str, Answers], ...]


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a detector sees in one picture.

    Attributes:
      seen: (head, label) pairs it reports.
      valid: False for a blank, noise, or a broken scene.
      scores: numbers by name, such as how well the picture agrees with its prompt.
    """

    seen: Answers
    valid: bool
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Detector(Protocol):
    """Reads pictures.

    Attributes:
      name: prefixes its numbers, so that no table mixes two detectors.
    """

    name: str

    @property
    def version(self) -> str:
        """Another one where it would read a picture differently."""
        ...

    def __call__(self, images_BHWC: np.ndarray, prompts: Sequence[str]) -> Sequence[Reading]:
        """Reads pictures [B, H, W, 3] in [0, 1], each painted for one of the prompts."""
        ...


Paint = Callable[[Sequence[str], Sequence[int]], np.ndarray]


def read(
    probes: Sequence[Probe],
    paint: Paint,
    detector: Detector,
    *,
    batch: int,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[Reading]:
    """Paints each probe and reads its picture.

    Args:
      probes: what to paint.
      paint: (prompts, seeds) -> pictures [B, H, W, 3] in [0, 1]; always called with `batch`
        prompts, the last call filled up, so that one shape is compiled.
      detector: reads the pictures.
      batch: pictures painted at once.
      on_batch: told how many probes are done, for a progress line.
    Returns:
      One reading a probe, in order.
    Raises:
      NonFiniteError: a picture holds NaN or Inf: no detector's answer to it means anything.
    """
    readings: list[Reading] = []
    for start in range(0, len(probes), batch):
        part = probes[start : start + batch]
        filled = [*part, *[part[-1]] * (batch - len(part))]
        prompts = [probe.prompt for probe in filled]
        images = paint(prompts, [probe.seed for probe in filled])
        real = require_finite(images[: len(part)], "to be measured")
        readings += detector(real, prompts[: len(part)])
        on_batch(len(readings))
    return readings


def check_held_out(probes: Iterable[Probe], trained_prompts: Iterable[str]) -> None:
    """Raises ValueError, naming the overlap, if a probe's prompt was trained on in any form."""
    trained = {forms.key(prompt) for prompt in trained_prompts}
    overlap = {probe.prompt for probe in probes if forms.key(probe.prompt) in trained}
    if overlap:
        raise ValueError(
            f"{len(overlap)} evaluation prompts were trained on, e.g. {sorted(overlap)[0]!r}; "
            "evaluate with other templates or words"
        )
