"""Closed forms on the dual blocks' text inputs: a concept taken out of the words around it, and
the changes for several concepts made one."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from ea_jax.concepts.counterparts import around
from ea_jax.concepts.rows import SYNONYM, WORD
from ea_jax.flux.adapters import Module, walk
from ea_jax.flux.transformer import Weights
from ea_jax.methods import closed_form, kernel_changes, layer_inputs
from ea_jax.methods.layer_inputs import Moments, Prompts
from ea_jax.methods.ready import Ready
from ea_jax.runtime.hosts import on_host
from ea_jax.runtime.metrics import NonFiniteError


class Inputs:
    """Moments of a run's inputs, collected once each, and what is solved with them.

    What is kept are prompts to preserve, and the concepts' sentences with another word in their
    place. The former have a total weight of 1, and so have each concept's: both with another word
    and, where its own inputs are collected, as they are.
    """

    def __init__(self, ready: Ready, templates: int, times: int) -> None:
        """`templates` are sentences of each name of a concept, `times` noise levels."""
        self._ready, self._templates, self._times = ready, templates, times
        self._known: dict[int | None, np.ndarray] = {}

    def refined(self, weights: Weights, concept: int, *, keep: float, stay: float) -> np.ndarray:
        """X [L, D, D], float32, that takes a concept out of the other words of its sentences.

            X = argmin sum_c |c X - (g - c)|^2 + keep sum_k |k X|^2 + stay |X|^2

        c are inputs at those words, g at the same ones where another is in the concept's place.

        Raises:
          NonFiniteError: X isn't finite.
        """
        rows = self._rows(concept)
        there_BT, goal_BT = around(self._ready.bank, rows)
        given = layer_inputs.kept(self._ready, "anchor", rows).replace(
            erased=self._ready.bank.text("target", rows),
            erased_BT=layer_inputs.together(there_BT),
            goal_BT=goal_BT,
        )
        sums = self._collected(weights, given).replace(kept_LDD=self._moments(weights))
        x_LDD = np.stack(list(layer_inputs.solved(sums, erase=1.0, keep=keep, stay=stay)))
        if not np.isfinite(x_LDD).all():
            raise NonFiniteError("taking the concept out of other words gave NaN or Inf")
        return x_LDD.astype(np.float32)

    def fused(
        self, weights: Weights, refined_CLDD: Any, adapters: Any, *, keep: float, stay: float
    ) -> dict[Module, np.ndarray]:
        """What is added to the text's kernels [L, in, out], float32, for all concepts at once.

        Args:
          weights: the frozen transformer's.
          refined_CLDD: X of each concept, for queries and keys.
          adapters: of the text's layers, stacked over concepts; alpha / rank folded in.
          keep, stay: as for `closed_form.fused`.
        """
        kept_LDD, refined_CLDD = self._moments(weights), on_host(refined_CLDD)
        own_CLDD = np.stack([self._moments(weights, c) for c in range(len(refined_CLDD))])
        pairs = dict(walk(jax.tree.map(on_host, adapters)))
        solve, found = functools.partial(closed_form.fused, keep=keep, stay=stay), {}
        for path in sorted({*pairs, *layer_inputs.QUERIES_AND_KEYS}):
            deltas = []
            for block, kernel_DO in enumerate(kernel_changes.kernels(weights, path)):
                change_CDO = np.zeros((len(own_CLDD), *kernel_DO.shape))
                if path in layer_inputs.QUERIES_AND_KEYS:
                    change_CDO += refined_CLDD[:, block] @ kernel_DO
                if path in pairs:
                    change_CDO += pairs[path]["A"][:, block] @ pairs[path]["B"][:, block]
                delta_DO = solve(own_CLDD[:, block], change_CDO, kept_LDD[block])
                deltas.append(delta_DO.astype(np.float32))
            found[path] = np.stack(deltas)
        return found

    def _moments(self, weights: Weights, concept: int | None = None) -> np.ndarray:
        """[L, D, D], float32: of what is kept, or of a concept's sentences without padding."""
        if concept not in self._known:
            ready, bank = self._ready, self._ready.bank
            if concept is None:
                preserve = np.arange(len(bank.groups["preserve"].prompt_G))
                asked = [("preserve", preserve)] if len(preserve) else []
                asked += [("anchor", self._rows(c)) for c in range(bank.concepts)]
                given = [layer_inputs.kept(ready, *one) for one in asked]
            else:
                rows = self._rows(concept)
                words_BT = bank.text_mask_UT[bank.groups["target"].prompt_G[rows]]
                given = [layer_inputs.kept(ready, "target", rows, words_BT)]
            self._known[concept] = on_host(self._collected(weights, *given).kept_LDD)
        return self._known[concept]

    def _collected(self, weights: Weights, *given: Prompts) -> Moments:
        batch = self._ready.settings.sample.batch
        return layer_inputs.collect(self._ready, weights, given, times=self._times, batch=batch)

    def _rows(self, concept: int) -> np.ndarray:
        each = [self._ready.bank.rows(concept=concept, names=(name,)) for name in (WORD, SYNONYM)]
        return np.concatenate([rows[: self._templates] for rows in each])
