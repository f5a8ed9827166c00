"""Embedder: a closed form on `context_embedder`, the text's first layer; no step is trained.

    delta = (E'E + lambda K'K + mu I)^-1 E'(V* - E) W        W: [in, out] of context_embedder

E are T5's outputs at the concept's tokens, K those at all other tokens and at padding, and V* the
mean output at padding: what the concept's tokens then say is nothing. After UCE (Gandikota 2024),
and what edits this layer on FLUX in whole kernels; here it is an ordinary LoRA, of E's own rank.

It erases the words that it is given, and no word whose output lies elsewhere.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ea_jax.concepts.bank import PromptBank
from ea_jax.methods.method import Method, Needs
from ea_jax.methods.ready import Ready
from ea_jax.runtime.hosts import on_host
from ea_jax.settings import Settings

_log = logging.getLogger(__name__)
LAYER = "context_embedder"


@dataclasses.dataclass(frozen=True)
class Outputs:
    """T5's outputs as rows of a least squares problem, float64, D wide, each with its weight.

    A concept's rows weigh one together, and so do those of a prompt that is kept.

    Attributes:
      erased_ND: at the concepts' tokens, e.
      moves_ND: where they shall go from there, v* - e.
      kept_KD: at all tokens that are no concept's.
    """

    erased_ND: np.ndarray
    moves_ND: np.ndarray
    kept_KD: np.ndarray


def needs(settings: Settings) -> Needs:
    """Prompts and weights, nothing besides."""
    del settings
    return Needs()


def make(ready: Ready) -> Method:
    """The method of a run: its edit is solved from the bank and the layer's kernel."""
    section = ready.settings.embedder

    def init(key: jax.Array) -> dict[str, Any]:
        del key
        return {}

    def edit(state: Any, weights: Any) -> Any:
        del state
        began = time.monotonic()
        kernel_DO = on_host(weights[LAYER]["kernel"]).astype(np.float64)
        left_DN, right_ND = solved(outputs(ready.bank), keep=section.keep, ridge=section.ridge)
        A, B, error = low_rank(left_DN, right_ND @ kernel_DO, section.tolerance)
        _log.info(
            "%s solved in %.2f s: rank %d, which is the whole change within %.2g",
            *(LAYER, time.monotonic() - began, A.shape[1], error),
        )
        adapter = {"A": jnp.asarray(A, jnp.float32), "B": jnp.asarray(B, jnp.float32)}
        return ready.edit({LAYER: adapter}, preset="embedder")

    return Method(0, init, edit)


def outputs(bank: PromptBank) -> Outputs:
    """A bank's outputs: erased in the concepts' sentences, shuffled and plain; kept besides."""
    concept_U, own_UT = _own_tokens(bank)
    padding_D = _padding(bank)
    erased, moves, kept = [], [], []
    for concept in np.unique(concept_U[concept_U >= 0]):
        e_ND = bank.t5_UTD[own_UT & (concept_U == concept)[:, None]].astype(np.float64)
        weight = 1 / np.sqrt(len(e_ND))
        erased.append(weight * e_ND)
        moves.append(weight * (padding_D - e_ND))
    for prompt in np.union1d(np.flatnonzero(concept_U >= 0), bank.groups["preserve"].prompt_G):
        k_KD = bank.t5_UTD[prompt][~own_UT[prompt]].astype(np.float64)
        kept.append(k_KD / np.sqrt(max(len(k_KD), 1)))
    return Outputs(np.concatenate(erased), np.concatenate(moves), np.concatenate(kept))


def solved(rows: Outputs, *, keep: float, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """What is added to a T5 output before the layer: X = left [D, N] right [N, D].

    X minimises |E X - M|^2 + keep |K X|^2 + mu |X|^2, with E, M and K the rows.

    Args:
      rows: outputs with their weights.
      keep: lambda, weight of a kept prompt beside that of an erased concept.
      ridge: mu, as a share of the erased outputs' mean square.
    """
    e_ND, k_KD = rows.erased_ND, rows.kept_KD
    mu = ridge * np.square(e_ND).sum() / e_ND.shape[1]
    gram_DD = e_ND.T @ e_ND + keep * (k_KD.T @ k_KD) + mu * np.eye(e_ND.shape[1])
    return np.linalg.solve(gram_DD, e_ND.T), rows.moves_ND


def low_rank(
    left_DN: np.ndarray, right_NO: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """The smallest A [D, r] and B [r, O] whose product is left right within a relative error.

    Returns:
      A, B, and the error that is left: a ratio of Frobenius norms.
    """
    q_DN, r_NN = np.linalg.qr(left_DN)
    p_ON, t_NN = np.linalg.qr(right_NO.T)
    u, s, vt = np.linalg.svd(r_NN @ t_NN.T)
    # What is left beyond the first r, for each r from 0.
    beyond = np.sqrt(np.append(np.cumsum(np.square(s)[::-1])[::-1], 0.0))
    size = beyond[0] or 1.0
    rank = max(1, int(np.argmax(beyond <= tolerance * size)))
    root = np.sqrt(s[:rank])
    A, B = q_DN @ u[:, :rank] * root, root[:, None] * (vt[:rank] @ p_ON.T)
    return A, B, float(beyond[rank] / size)


def _own_tokens(bank: PromptBank) -> tuple[np.ndarray, np.ndarray]:
    """The concept of each of the bank's prompts, -1 for none, and [U, T] where its tokens are."""
    concept_U = np.full(len(bank.prompts), -1)
    own_UT = np.zeros(bank.text_mask_UT.shape, bool)
    for name, concept_G in (("target", bank.concept_R), ("plain", bank.plain_C)):
        group = bank.groups[name]
        concept_U[group.prompt_G] = concept_G
        rows, places = np.nonzero(group.mask_GN)
        own_UT[group.prompt_G[rows], group.idx_GN[rows, places]] = True
    return concept_U, own_UT


def _padding(bank: PromptBank) -> np.ndarray:
    """T5's mean output at padding: behind a text and its end."""
    length_U = bank.text_mask_UT.sum(-1)
    padding_UT = np.arange(bank.text_mask_UT.shape[1]) > length_U[:, None]
    return bank.t5_UTD[padding_UT].astype(np.float64).mean(0)
