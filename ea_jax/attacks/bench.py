"""The bench: all that an attack may use, and how its trials are read.

bench = Bench(painter, task=task, own=own, text_length=32, detector=judge, cache=".cache/banks")
for trial in attack.trials(bench, victim):
    readings = bench.read(victim, trial)
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ea_jax import painter as painting
from ea_jax.attacks.canvas import Canvas, Said
from ea_jax.attacks.trials import Trial, Victim
from ea_jax.concepts import spans
from ea_jax.concepts.array_cache import Arrays, cached
from ea_jax.concepts.encoding import ENCODERS, Encoded, encoder_of
from ea_jax.evaluate import metrics, readings
from ea_jax.evaluate.probes import Detector, Probe, Reading
from ea_jax.evaluate.task import Task
from ea_jax.flux import latents
from ea_jax.methods.forward import Forward
from ea_jax.painter import Painter
from ea_jax.runtime.fingerprint import checksum

_log = logging.getLogger(__name__)
_VERSION = 1  # of what is kept on disk
_SEEDS_APART = 10_000
# Prompts that an attack may search with.
_OWN = 16
# Seeds that are tried for a picture of the concept.
_TRIES, _TRIES_APART = 5, 100_000_000


class Bench:
    """All that an attack may use.

    Attributes:
      painter: of the model, with its transformer loaded.
      word: the concept's.
      probes: plain prompts with the word.
      own: plain prompts with the word for searches, and other seeds; none of `probes`, as far as
        there are enough others.
      others: prompts about other things.
      synonyms: held-out words for the same.
    """

    def __init__(
        self,
        painter: Painter,
        *,
        task: Task,
        own: Task,
        text_length: int,
        detector: Detector,
        cache: str | Path | None,
        seeds: int = 1,
    ) -> None:
        """Attributes as above.

        Args:
          task: what is asked of the concept.
          own: the same with other prompts.
          text_length: T5 tokens, padding included.
          detector: reads pictures.
          cache: folder where readings and what is found are kept; None keeps nothing.
          seeds: a prompt.
        Raises:
          ValueError: no prompt of the task holds the concept's word.
        """
        self.painter, self.task, self.word = painter, task, task.concept
        self.text_length, self.seeds = text_length, seeds
        self.detector, self.cache = detector, cache
        self.probes, self.own = _with_word(task), _with_word(own)
        # Its seeds are others in any case; few sentences of two people differ in more.
        asked_already = {probe.prompt for probe in self.probes}
        self.own = tuple(sorted(self.own, key=lambda probe: probe.prompt in asked_already))[:_OWN]
        asked = {metric.name for metric in (metrics.OTHERS, metrics.NEAREST)}
        self.others = tuple(
            probe.prompt
            for probe in own.probes
            if asked & {name for name, _ in probe.questions}
            and not spans.occurrences(probe.prompt, self.word)
        )
        self.synonyms = task.held_out

    @functools.cached_property
    def plain(self) -> Said:
        """The plain prompts."""
        return self.say([probe.prompt for probe in self.probes])

    def say(self, prompts: Sequence[str], text_length: int | None = None) -> Said:
        """Encodes prompts, or reads them where they were encoded before, and finds the word."""
        pipeline, length = self.painter.pipeline, text_length or self.text_length
        options = encoder_of(
            pipeline, text_length=length, dtype=str(np.dtype(pipeline.dtype)), cache=self.cache
        )
        texts = Encoded.make(prompts, **options)
        pipeline.drop(*ENCODERS)
        return Said(texts, self.where(texts.prompts, length))

    def where(self, prompts: Sequence[str], text_length: int | None = None) -> np.ndarray:
        """Where the word stands in T5's tokens of prompts, bool [U, T]."""
        return spans.standing(
            self.painter.pipeline.t5_tokenizer,
            prompts,
            [self.word],
            max_length=text_length or self.text_length,
        )

    def seeded(self, probes: Sequence[Probe]) -> list[list[Probe]]:
        """Each prompt with all its seeds; the first is its own."""
        return [
            [
                dataclasses.replace(probe, seed=probe.seed + n * _SEEDS_APART)
                for n in range(self.seeds)
            ]
            for probe in probes
        ]

    def read(self, victim: Victim, trial: Trial) -> list[list[Reading]]:
        """What the detector sees of a victim under a trial, by prompt and seed."""
        edit, strength = victim.with_another(trial.added)
        found = readings.read(
            self.canvas(victim, trial),
            [probe for row in self.seeded(trial.probes) for probe in row],
            self.detector,
            name=victim.name,
            edit=edit,
            strength=strength,
            cache=self.cache,
        )
        each = iter(found)
        return [[next(each) for _ in range(self.seeds)] for _ in trial.probes]

    def canvas(self, victim: Victim, trial: Trial) -> Canvas:
        """A painter of a victim under a trial."""
        return Canvas(
            self.painter,
            trial.said,
            sampling=trial.sampling,
            start=trial.pictures,
            zeroed=victim.zeroed,
            against=trial.against,
            rounded=trial.rounded,
        )

    def pictures(self, probes: Sequence[Probe], *, apart: int = 0) -> np.ndarray:
        """The frozen model's latents of pictures of the concept, packed, float32 [P, S, C]; kept.

        Each is of the first of `_TRIES` seeds whose picture shows it; of the first seed where none
        does, which each call says.

        Args:
          probes: plain prompts, and the seeds to begin with.
          apart: added to each seed.
        """
        probes = [dataclasses.replace(probe, seed=probe.seed + apart) for probe in probes]
        said = self.say([probe.prompt for probe in probes])

        def paint() -> Arrays:
            canvas, left = Canvas(self.painter, said), list(range(len(probes)))
            found: dict[int, np.ndarray] = {}
            for turn in range(_TRIES):
                prompts = [probes[i].prompt for i in left]
                seeds = [probes[i].seed + turn * _TRIES_APART for i in left]
                z_PhwC, images = canvas.sample(prompts, seeds)
                packed_PSC = np.asarray(latents.pack(jnp.asarray(z_PhwC)), np.float32)
                read = self.detector(images, prompts)
                shown = [
                    metrics.CONCEPT.score([probes[i]], [one]).hits
                    for i, one in zip(left, read, strict=True)
                ]
                for i, packed_SC, shows in zip(left, packed_PSC, shown, strict=True):
                    if shows or i not in found:
                        found[i] = packed_SC
                left = [i for i, shows in zip(left, shown, strict=True) if not shows]
                if not left:
                    break
            return np.stack([found[i] for i in range(len(probes))]), np.array(left, np.int32)

        asked = [[probe.prompt, probe.seed] for probe in probes]
        seen_by = [self.detector.name, self.detector.version]
        inputs = [self.word, asked, _TRIES, seen_by]
        names = ["packed_PSC", "without"]
        packed_PSC, without = self.kept("pictures of the concept", inputs, said, paint, names)
        if len(without):
            _log.warning(
                "%d of %d pictures that the attack uses don't show %r, with %d seeds each",
                *(len(without), len(probes), self.word, _TRIES),
            )
        return packed_PSC

    def kept(
        self,
        what: str,
        inputs: Any,
        said: Said,
        make: Callable[[], Arrays],
        names: Sequence[str],
    ) -> Arrays:
        """Arrays that `make` returns, or returned before for the same inputs, prompts and model.

        Args:
          what: they are, for the log and the key.
          inputs: of what JSON can hold; with a victim's `identity` where it is searched.
          said: the prompts that they are made from.
          make: makes them.
          names: theirs, in the cache's file.
        """
        all_inputs = {
            "version": [_VERSION, painting.VERSION],
            "what": what,
            "texts": checksum(said.texts.t5_UTD, said.texts.pooled_UD),
            **readings.conditions(self.painter, None, None),
            "inputs": inputs,
        }
        cache = None if self.painter.fingerprint is None else self.cache
        return cached(cache, all_inputs, make, names=names, kind="attacks", what=what)

    def forward(self) -> Forward:
        """A pass through the model as the painter makes it; strengths are folded in already."""
        pipeline, how = self.painter.pipeline, self.painter.sampling
        side = how.side(pipeline)
        h, w, _ = pipeline.latent_shape(side, side)
        config = pipeline.transformer_config
        sigmas = pipeline.sigmas(how.steps or pipeline.usual_steps, side, side)
        guidance = 3.5 if how.guidance is None else how.guidance
        return Forward(
            model=config,
            grid=latents.grid((h, w)),
            sigmas=tuple(map(float, sigmas)),
            guidance=guidance if config.guidance_embeds else None,
            attention=how.attention,
        )


def _with_word(task: Task) -> tuple[Probe, ...]:
    """The task's probes of the concept that hold its word, asked for the concept alone."""
    found = []
    for probe in task.probes:
        questions = tuple(q for q in probe.questions if q[0] == metrics.CONCEPT.name)
        if questions and spans.occurrences(probe.prompt, task.concept):
            found.append(dataclasses.replace(probe, questions=questions))
    if not found:
        raise ValueError(
            f"no prompt of the task holds the word {task.concept!r}; attacks change the prompts "
            "that do"
        )
    return tuple(found)
