"""Concept inversion: embeddings that aren't the concept's word, and still paint the concept.

Words that mean the concept need not lie near its word in the text encoder's output, so an erasure
of the word leaves them: on flux-tiny "futbol" has a cosine of 0.1 to "soccer ball". Here such
outputs are searched for, from other words', and erased along with the word; later in the run again,
for what the model by then still paints. The idea is STEREO's (arXiv 2408.16807), whose search is
textual inversion against pictures; for this one's see `ea_jax.methods.inversion`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from ea_jax.concepts.array_cache import cached
from ea_jax.concepts.bank import PromptBank, draw
from ea_jax.concepts.rows import WORD
from ea_jax.flux.transformer import Weights
from ea_jax.methods import pictures
from ea_jax.methods.forward import Forward
from ea_jax.methods.inversion import Batch, search_step, unit
from ea_jax.runtime import compiler
from ea_jax.runtime.fingerprint import checksum
from ea_jax.runtime.mesh import batch_parts, pad_rows, put, put_rows, sharding
from ea_jax.runtime.metrics import NonFiniteError
from ea_jax.runtime.streams import stream
from ea_jax.settings import Settings

_log = logging.getLogger(__name__)
# Changes when the same inputs would give other inversions.
_VERSION = 2
_START, _PICTURE, _NOISE = 201, 202, 203


def due(settings: Settings, step: int, concepts: int) -> range:
    """Numbers of the inversions to be searched for before that pair, from 0; maybe none."""
    first = known_by(settings, step - 1, concepts) if step else 0
    return range(first, known_by(settings, step, concepts))


def known_by(settings: Settings, step: int, concepts: int) -> int:
    """How many inversions that pair, from 0, can draw from; of all concepts together."""
    data, pairs = settings.data, settings.pairs
    begun = sum(pairs * r // data.inversion_rounds <= step for r in range(data.inversion_rounds))
    return concepts * -(-data.inversions * begun // data.inversion_rounds)


def of_concept(concept: int, concepts: int, known: int) -> np.ndarray:
    """Numbers of one concept's inversions: the concepts take turns."""
    return np.arange(concept, known, concepts)


class Search:
    """Finds inversions of a run's concepts; compiled once for all rounds.

    Args:
      bank: encoded prompts; each concept's `plain` sentences are searched in.
      concept: pictures of those sentences.
      settings: of the run: data.inversions and what goes with them, optim.batch and seed.
      forward: what is static about a pass through the model.
      mesh: that the weights lie on.
    Raises:
      ValueError: no prompt without the concept has a word to start from.
    """

    def __init__(
        self,
        bank: PromptBank,
        concept: pictures.LatentSet,
        *,
        settings: Settings,
        forward: Forward,
        mesh: Mesh,
    ) -> None:
        self._bank, self._concept, self._settings, self._mesh = bank, concept, settings, mesh
        words = [bank.plain(concept=c, names=(WORD,)) for c in range(bank.concepts)]
        self._own = [np.flatnonzero(np.isin(concept.number_P, word)) for word in words]
        self._others_WD = _other_words(bank)
        self._scale = _word_scale(bank)
        self._sentences = np.concatenate(words)
        self._tokens = int(bank.groups["plain"].mask_GN[self._sentences].sum(-1).max())
        data, replicated = settings.data, sharding(mesh, ())
        optimiser = optax.adam(
            optax.cosine_decay_schedule(data.inversion_rate, data.inversion_steps)
        )

        step = search_step(optimiser, scale=self._scale, forward=forward)
        self._begin = jax.jit(optimiser.init, out_shardings=replicated)
        self._step = compiler.jit(step, mesh, out_shardings=replicated)

    @property
    def shape(self) -> tuple[int, int, int]:
        """[M, N, D] of all inversions of a run: N tokens of the concept, D wide."""
        count = self._settings.data.inversions * self._bank.concepts
        return count, self._tokens, self._others_WD.shape[1]

    def find(
        self, base: Weights, lora: Any, numbers: range, *, fingerprint: str | None = None
    ) -> np.ndarray:
        """Embeddings with which the model with `lora` paints the concept as the frozen one does.

        Args:
          base: frozen weights.
          lora: adapters of the model that is searched.
          numbers: which of the run's inversions; each has random numbers of its own.
          fingerprint: of `base`, if `lora` changes nothing: what is found is then kept in
            data.cache, or read from there.
        Returns:
          [M, N, D] float32 in the place of T5's outputs at the concept's tokens.
        Raises:
          NonFiniteError: the search gave NaN or Inf; nothing is kept.
        """
        if fingerprint is None:
            return self._find(base, lora, numbers)
        (found_MND,) = cached(
            self._settings.data.cache,
            self._inputs(fingerprint, numbers),
            lambda: (self._find(base, lora, numbers),),
            names=("inversions_MND",),
            kind="inversions",
            what=f"{len(numbers)} inversions",
        )
        return found_MND

    def _inputs(self, fingerprint: str, numbers: range) -> dict[str, Any]:
        """All that the inversions of a frozen model depend on."""
        data, optim, model = self._settings.data, self._settings.optim, self._settings.model
        sentences = self._sentences
        text = self._bank.text("plain", sentences)
        columns = self._bank.columns("plain", sentences)
        return {
            "version": [_VERSION, pictures.VERSION],
            "base": fingerprint,
            "numbers": [numbers.start, numbers.stop],
            "pictures": checksum(self._concept.latent_PSC, self._concept.number_P),
            "text": checksum(text.t5_BTD, text.pooled_BD, columns.idx_BN, columns.mask_BN),
            "others": checksum(self._others_WD),
            "seed": optim.seed,
            "batch": optim.batch,
            "steps": data.inversion_steps,
            "rate": data.inversion_rate,
            "guidance": model.guidance,
            "dtype": model.dtype,
            "attention": model.attention,
        }

    def _find(self, base: Weights, lora: Any, numbers: range) -> np.ndarray:
        optim, data, found = self._settings.optim, self._settings.data, []
        replicated, parts = sharding(self._mesh, ()), batch_parts(self._mesh)
        # The last few are filled up, so that one shape is compiled.
        size = optim.batch + -optim.batch % parts
        for first in numbers[:: optim.batch]:
            some = range(first, min(first + optim.batch, numbers.stop))
            start_BND, _ = pad_rows(np.stack([self._start(m) for m in some]), size)
            u_BND = put(unit(start_BND), replicated)
            opt_state, error_B = self._begin(u_BND), np.zeros(0)
            for turn in range(data.inversion_steps):
                padded, _ = pad_rows(self._batch(some, turn), size)
                batch = put_rows(self._mesh, padded)
                u_BND, opt_state, error_B = self._step(u_BND, opt_state, base, lora, batch)
            found.append(self._scale * np.asarray(u_BND)[: len(some)])
            # The last update shows in no error yet.
            if not (np.isfinite(error_B).all() and np.isfinite(found[-1]).all()):
                raise NonFiniteError(
                    f"the search for inversions gave NaN or Inf; lower "
                    f"data.inversion_rate = {data.inversion_rate:g}, or set data.inversions=0"
                )
            _log.info("found %d of %d inversions", some.stop, self.shape[0])
        return np.concatenate(found)

    def _start(self, number: int) -> np.ndarray:
        """Outputs of T5 for other words, [N, D]."""
        rng = stream(self._settings.optim.seed, _START, number)
        return self._others_WD[rng.integers(len(self._others_WD), size=self._tokens)]

    def _batch(self, numbers: Sequence[int], turn: int) -> Batch:
        seed = self._settings.optim.seed
        own = [self._own[m % self._bank.concepts] for m in numbers]
        picked = np.array(
            [draw(mine, seed, _PICTURE, m, turn) for mine, m in zip(own, numbers, strict=True)]
        )
        sentences = self._concept.number_P[picked]
        latent_BSC: Any = self._concept.latent_PSC[picked]
        seed_B: Any = np.array(
            [stream(seed, _NOISE, m, turn).integers(2**32) for m in numbers], np.uint32
        )
        return Batch(
            latent_BSC=latent_BSC,
            text=self._bank.text("plain", sentences),
            columns=self._bank.columns("plain", sentences),
            seed_B=seed_B,
        )


def _word_scale(bank: PromptBank) -> float:
    """Root mean square of T5's outputs at the concepts' own tokens."""
    own_ND = bank.outputs("plain", bank.plain(names=(WORD,)))
    return float(np.sqrt(np.square(own_ND).mean()))


def require_words(bank: PromptBank) -> None:
    """Raises ValueError if no prompt without the concept has a word to start from."""
    if not bank.text_mask_UT[bank.without].any():
        raise ValueError(
            "the search for inversions starts from other words, and no prompt without the concept "
            "has any; give concept.preserve_prompts, or set data.inversions=0"
        )


def _other_words(bank: PromptBank) -> np.ndarray:
    """T5's outputs at the words of prompts without the concept, [words, D] float32."""
    require_words(bank)
    prompts = bank.without
    return bank.t5_UTD[prompts][bank.text_mask_UT[prompts]].astype(np.float32)
