"""What each pair of steps trains on: a function of the run's seed and the step, on the host.

A resumed run therefore needs nothing but the step to go on with the same batches.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from ea_jax.concepts.bank import PromptBank, draw
from ea_jax.concepts.rows import SLIP, WORD
from ea_jax.methods.erase_anything import inversions
from ea_jax.methods.erase_anything.steps import Contrast, LowerBatch, UpperBatch
from ea_jax.methods.pictures import FIRST_SEED, LatentSet, Pictures, in_turn
from ea_jax.methods.trajectories import Turns, Visit
from ea_jax.runtime.mesh import pad_rows
from ea_jax.runtime.streams import stream
from ea_jax.settings import Settings

# One stream of random numbers for each purpose, told apart by its first key after the seed; 11 is
# the prompt bank's.
_PATH, _RESAMPLED, _INDEX, _LOWER, _UPPER, _LORA, _KEEP, _CONTRAST, _CONTRAST_PICTURE = range(9)
_VISIT, _INVERSION = 9, 10


def has_upper(settings: Settings) -> bool:
    """Whether any term preserves; without one there is no upper level."""
    return bool(settings.loss.lora or settings.loss.keep or settings.loss.rsc)


@dataclasses.dataclass(frozen=True)
class Batches:
    """Makes the batches of a run.

    Attributes:
      settings: of the run.
      bank: encoded prompts.
      turns: whose turn it is in the pool.
      concept: pictures of the bank's `plain` sentences; None where no term needs them.
      keep: pictures of its `preserve` prompts; likewise.
      parts: devices that share a batch; its rows are filled up to a multiple.
    """

    settings: Settings
    bank: PromptBank
    turns: Turns
    concept: LatentSet | None
    keep: LatentSet | None
    parts: int = 1

    def path_row(self, member: int, round: int) -> int:  # noqa: A002 - a path is a round here
        """The bank's row whose sentence a member of the pool follows on its `round`-th path."""
        return self.bank.drawn(self._seed, _PATH, member, round)

    def visit_row(self, visit: Visit, known: int) -> tuple[int, int]:
        """The row that a visit trains: the path's sentence, in any order of words, by any name.

        A path keeps its picture for as many visits as there are steps. Were its row kept as well,
        a run of 200 pairs would see thirty rows.

        Args:
          visit: of a path.
          known: inversions there are by now.
        Returns:
          The row, and the inversion in the place of its word; -1 for none.
        """
        path = self.path_row(visit.member, visit.round)
        of = {
            "concept": int(self.bank.concept_G[path]),
            "sentence": int(self.bank.sentence_G[path]),
        }
        return self._drawn(known, (_VISIT, visit.member, visit.round, visit.index), **of)

    def lower(self, step: int) -> LowerBatch:
        """Prompts and places of lower step `step`, from 0."""
        size = self.settings.optim.batch
        known = inversions.known_by(self.settings, step, self.bank.concepts)
        if self.settings.data.x_t == "pool":
            visits = self.turns.visits(step)
            members = [visit.member for visit in visits]
            fresh = [visit.fresh for visit in visits]
            index = [visit.index for visit in visits]
            drawn = [self.visit_row(visit, known) for visit in visits]
        else:
            members, fresh = list(range(size)), [True] * size
            # One path is walked for the whole batch, so all its rows stop at one index.
            index = [draw(np.arange(self.turns.steps), self._seed, _INDEX, step)] * size
            drawn = [self._drawn(known, (_RESAMPLED, step, row)) for row in range(size)]
        rows = [row for row, _ in drawn]
        content = {
            "inversion_B": np.array([inversion for _, inversion in drawn], np.int32),
            "member_B": np.array(members, np.int32),
            "fresh_B": np.array(fresh, bool),
            "index_B": np.array(index, np.int32),
            "text": self.bank.text("target", rows),
            "columns": self.bank.columns("target", rows),
            "anchor": self.bank.text("anchor", rows),
        }
        padded, weight_B = pad_rows(content, self.parts)
        return LowerBatch(weight_B=weight_B, seed=self._noise_seed(_LOWER, step), **padded)

    def upper(self, step: int) -> UpperBatch:
        """Pictures and prompts of upper step `step`, from 0."""
        loss, optim = self.settings.loss, self.settings.optim
        lora = keep = contrast = None
        if loss.lora:
            assert self.concept is not None
            lora = self._pictures(self.concept, "plain", optim.lora_batch, step, _LORA)
        if loss.keep:
            assert self.keep is not None
            keep = self._pictures(self.keep, "preserve", optim.keep_batch, step, _KEEP)
        if loss.rsc:
            contrast = self._contrast(step)
        return UpperBatch(
            lora=lora, keep=keep, contrast=contrast, seed=self._noise_seed(_UPPER, step)
        )

    def _drawn(
        self,
        known: int,
        purpose: tuple[int, ...],
        *,
        concept: int | None = None,
        sentence: int | None = None,
    ) -> tuple[int, int]:
        """One of the rows (of a concept's sentence), or an inversion in one of the word's own."""
        rows = self.bank.rows(concept=concept, sentence=sentence)
        own = self.bank.rows(concept=concept, sentence=sentence, names=(WORD,))
        # Slips, all together, and inversions each come as often as the word itself.
        slips = self.bank.rows(concept=concept, sentence=sentence, names=(SLIP,))
        inverted = own[: None if known else 0]
        choices = np.concatenate([rows, np.resize(slips, len(own) if len(slips) else 0), inverted])
        picked = draw(np.arange(len(choices)), self._seed, *purpose)
        row = int(choices[picked])
        if picked < len(choices) - len(inverted):
            return row, -1
        mine = inversions.of_concept(int(self.bank.concept_G[row]), self.bank.concepts, known)
        return row, draw(mine, self._seed, _INVERSION, *purpose)

    @property
    def _seed(self) -> int:
        return self.settings.optim.seed

    def _pictures(
        self, some: LatentSet, group: str, size: int, step: int, purpose: int
    ) -> Pictures:
        picked = in_turn(len(some.number_P), size, step, seed=self._seed, purpose=purpose)
        return some.batch(picked, functools.partial(self.bank.text, group), self.parts)

    def _contrast(self, step: int) -> Contrast:
        assert self.concept is not None
        choices, latents = self.bank.contrast_rows(), []
        rows = [
            draw(choices, self._seed, _CONTRAST, step, r)
            for r in range(self.settings.optim.rsc_batch)
        ]
        owner_P = self.bank.plain_G[self.concept.number_P]
        for r, row in enumerate(rows):
            own = np.flatnonzero(owner_P == self.bank.concept_G[row])
            latents.append(
                self.concept.latent_PSC[draw(own, self._seed, _CONTRAST_PICTURE, step, r)]
            )
        latent_BSC: Any = np.stack(latents)
        return Contrast(
            latent_BSC=latent_BSC,
            text=self.bank.text("target", rows),
            columns=self.bank.columns("target", rows),
            others=self.bank.text("others", rows),
            other_columns=self.bank.columns("others", rows),
        )

    def _noise_seed(self, purpose: int, step: int) -> Any:
        return np.uint32(stream(self._seed, purpose, step).integers(FIRST_SEED, 2**32))
