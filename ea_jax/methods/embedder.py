"""Embedder: a closed form on `context_embedder`, the text's first layer; no step is trained.

    delta = (E'E + lambda K'K + mu I)^-1 E'(V* - E) W        W: [in, out] of context_embedder

E are T5's outputs at the concept's tokens, K those at all other tokens and at padding, and V* the
mean output at padding: what the concept's tokens then say is nothing. After UCE (Gandikota 2024),
and what edits this layer on FLUX in whole kernels; here it is an ordinary LoRA, of E's own
rank as far as `embedder.rank` allows.

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
from ea_jax.concepts.rows import SLIP, SYNONYM, WORD
from ea_jax.methods.method import Method, Needs
from ea_jax.methods.ready import Ready
from ea_jax.runtime.hosts import on_host
from ea_jax.settings import Settings

_log = logging.getLogger(__name__)
LAYER = "context_embedder"
_NOTHING = 1e-12  # of the largest singular value: rounding


@dataclasses.dataclass(frozen=True)
class Outputs:
    """T5's outputs as rows of a least squares problem, float64, D wide, each with its weight.

    Rows of a concept's word weigh one together, those of its synonyms one more; so do those of each
    prompt that is kept.

    Attributes:
      erased_ND: at the concepts' tokens, e.
      moves_ND: where they shall go from there, v* - e.
      kept_DD: second moments of those at all tokens that are no concept's.
    """

    erased_ND: np.ndarray
    moves_ND: np.ndarray
    kept_DD: np.ndarray


def needs(settings: Settings) -> Needs:
    """Prompts and weights, nothing besides."""
    del settings
    return Needs()


def make(ready: Ready) -> Method:
    """The method of a run: its edit is solved from the bank and the layer's kernel."""

    def init(key: jax.Array) -> dict[str, Any]:
        del key
        return {}

    def edit(state: Any, weights: Any) -> Any:
        del state
        return ready.edit(solve(ready, weights))

    return Method(0, init, edit)


def solve(ready: Ready, weights: Any) -> Any:
    """Adapters of the layer for the concepts of a run, of the shapes of `blank`."""
    section, began = ready.settings.embedder, time.monotonic()
    kernel_DO = on_host(weights[LAYER]["kernel"]).astype(np.float64)
    rows = outputs(ready.bank, slips=section.slips)
    # Each of several concepts pulls at what is kept, and all of them together pull further: with
    # the square, five words leave others as one word does.
    keep = section.keep * ready.bank.concepts**2
    left_DN, right_ND = solved(rows, keep=keep, ridge=section.ridge)
    A, B, error = low_rank(left_DN, right_ND @ kernel_DO, section.rank)
    _log.info(
        "%s solved in %.2f s: rank %d, which is the whole change within %.2g",
        *(LAYER, time.monotonic() - began, A.shape[1], error),
    )
    # Filled up with zeros: pictures by the frozen model and the edited one then share a program.
    empty = blank(ready.settings, ready.template)[LAYER]
    return {
        LAYER: {
            "A": empty["A"].at[:, : A.shape[1]].set(A),
            "B": empty["B"].at[: len(B)].set(B),
        }
    }


def blank(settings: Settings, template: Any) -> Any:
    """Adapters of the layer that change nothing, {A: [D, r], B: [r, O]} in float32.

    r is embedder.rank, as far as the layer's widths allow.
    """
    wide_in, wide_out = template[LAYER]["kernel"].shape
    rank = min(settings.embedder.rank, wide_in, wide_out)
    return {LAYER: {"A": jnp.zeros((wide_in, rank)), "B": jnp.zeros((rank, wide_out))}}


def outputs(bank: PromptBank, *, slips: float) -> Outputs:
    """A bank's outputs: erased in the concepts' sentences, shuffled and plain; kept besides.

    Args:
      bank: encoded prompts.
      slips: weight of all slips of a concept together, beside that of its word.
    """
    padding_D = _padding(bank)
    erased, moves = [], []
    kept_DD = np.zeros((len(padding_D), len(padding_D)))
    weights = {WORD: 1.0, SYNONYM: 1.0, SLIP: slips}
    own = np.zeros(len(bank.prompts), bool)
    for concept in range(bank.concepts):
        for name, weight in weights.items():
            e_ND, others = _at_name(bank, concept, name)
            own[[number for number, _ in others]] = True
            for _, k_TD in others:
                kept_DD += _moments(k_TD)
            if weight and len(e_ND):
                share = np.sqrt(weight / len(e_ND))
                erased.append(share * e_ND)
                moves.append(share * (padding_D - e_ND))
    for number in np.setdiff1d(bank.groups["preserve"].prompt_G, np.flatnonzero(own)):
        kept_DD += _moments(bank.t5_UTD[number].astype(np.float64))
    return Outputs(np.concatenate(erased), np.concatenate(moves), kept_DD)


def _moments(k_TD: np.ndarray) -> np.ndarray:
    return k_TD.T @ k_TD / max(len(k_TD), 1)


def solved(rows: Outputs, *, keep: float, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """What is added to a T5 output before the layer: X = left [D, N] right [N, D].

    X minimises |E X - M|^2 + keep |K X|^2 + mu |X|^2, with E, M and K the rows.

    Args:
      rows: outputs with their weights.
      keep: lambda, weight of a kept prompt beside that of an erased concept.
      ridge: mu, as a share of the erased outputs' mean square.
    """
    e_ND = rows.erased_ND
    mu = ridge * np.square(e_ND).sum() / e_ND.shape[1]
    gram_DD = e_ND.T @ e_ND + keep * rows.kept_DD + mu * np.eye(e_ND.shape[1])
    return np.linalg.solve(gram_DD, e_ND.T), rows.moves_ND


def low_rank(
    left_DN: np.ndarray, right_NO: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """A [D, r] and B [r, O] whose product is nearest to left right.

    Args:
      left_DN, right_NO: factors of what is wanted.
      rank: r, at most; a change of fewer directions has no more.
    Returns:
      A, B, and the error that is left: a ratio of Frobenius norms.
    """
    q_DN, r_NN = np.linalg.qr(left_DN)
    p_ON, t_NN = np.linalg.qr(right_NO.T)
    u, s, vt = np.linalg.svd(r_NN @ t_NN.T)
    known = int((s > _NOTHING * s[0]).sum())
    rank = max(1, min(rank, known))
    root = np.sqrt(s[:rank])
    A, B = q_DN @ u[:, :rank] * root, root[:, None] * (vt[:rank] @ p_ON.T)
    return A, B, float(np.linalg.norm(s[rank:]) / (np.linalg.norm(s) or 1.0))


def _at_name(
    bank: PromptBank, concept: int, name: str
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """T5's outputs where a concept goes by names of one kind, [N, D], and each prompt's others."""
    places_UT = np.zeros(bank.text_mask_UT.shape, bool)
    for group_name, of_G, name_G in (
        ("target", bank.concept_G, bank.name_G),
        ("plain", bank.plain_G, bank.plain_name_G),
    ):
        group = bank.groups[group_name]
        chosen = np.flatnonzero((of_G == concept) & (name_G == name))
        rows, places = np.nonzero(group.mask_GN[chosen])
        places_UT[group.prompt_G[chosen][rows], group.idx_GN[chosen][rows, places]] = True
    prompts = np.flatnonzero(places_UT.any(1))
    t5_UTD = bank.t5_UTD[prompts].astype(np.float64)
    others = [
        (int(u), t5_TD[~own_T])
        for u, t5_TD, own_T in zip(prompts, t5_UTD, places_UT[prompts], strict=True)
    ]
    return t5_UTD[places_UT[prompts]], others


def _padding(bank: PromptBank) -> np.ndarray:
    """T5's mean output at padding: behind a text and its end."""
    length_U = bank.text_mask_UT.sum(-1)
    padding_UT = np.arange(bank.text_mask_UT.shape[1]) > length_U[:, None]
    return bank.t5_UTD[padding_UT].astype(np.float64).mean(0)
