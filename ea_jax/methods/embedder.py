"""Embedder: a closed form on `context_embedder`, the text's first layer; no step is trained.

    delta = (E'E + lambda K'K + mu I)^-1 E'(V* - E) W        W: [in, out] of context_embedder

E are T5's outputs at the concept's tokens, K those at all other tokens and at padding, and V* the
mean output at padding: what the concept's tokens then say is nothing. After UCE (Gandikota 2024),
and what edits this layer on FLUX in whole kernels; here it is an ordinary LoRA, of E's own
rank as far as `embedder.rank` allows.

It erases the words that it is given, and no word whose output lies elsewhere: slips and inversions
can be given too. K can have all words of the model's world, or of a list. `embedder.encoders=both`
does the same to the first layer that reads CLIP's pooled output, whose goal is that of the anchor.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from ea_jax.concepts.kept_words import Vocabulary
from ea_jax.methods import closed_form, text_outputs
from ea_jax.methods.closed_form import Outputs, filled, low_rank
from ea_jax.methods.erase_anything import inversions
from ea_jax.methods.method import Method, Needs, without_steps
from ea_jax.methods.ready import Ready
from ea_jax.runtime.hosts import on_host
from ea_jax.settings import Settings

_log = logging.getLogger(__name__)
LAYER = ("context_embedder",)
POOLED = ("time_text_embed", "text_embedder", "linear_1")


def needs(settings: Settings) -> Needs:
    """Prompts and weights; moments of a vocabulary and pictures to search in, where asked for."""
    section = settings.embedder
    searches = bool(section.inversions)
    found = Needs(
        concept=searches,
        vocabulary=Vocabulary(section.vocabulary, section.captions, section.left_out),
    )
    return found._replace(check=inversions.require_words) if searches else found


def make(ready: Ready) -> Method:
    """The method of a run: its edit is solved from the bank and the layer's kernel."""

    return without_steps(lambda weights: ready.edit(solve(ready, weights)))


def solve(ready: Ready, weights: Any) -> Any:
    """Adapters of the layers for the concepts of a run, of the shapes of `blank`."""
    section, bank, kept = ready.settings.embedder, ready.bank, ready.vocabulary
    found: dict[tuple[str, ...], Outputs] = {
        LAYER: text_outputs.of_t5(
            bank,
            slips=section.slips,
            others=_inversions(ready, weights),
            kept_DD=0.0 if kept is None else kept.t5_DD,
        )
    }
    if section.encoders == "both":
        pooled_DD = 0.0 if kept is None else kept.pooled_DD
        found[POOLED] = text_outputs.of_clip(bank, slips=section.slips, kept_DD=pooled_DD)
    adapters: dict[str, Any] = {}
    for path, rows in found.items():
        _put(adapters, path, _adapter(ready, path, rows, _at(weights, path)))
    return adapters


def _adapter(ready: Ready, path: tuple[str, ...], rows: Outputs, layer: Any) -> dict[str, Any]:
    """The adapter of a layer for rows of its inputs."""
    section, began = ready.settings.embedder, time.monotonic()
    kernel_DO = on_host(layer["kernel"]).astype(np.float64)
    if section.remains is None:
        # Each of several concepts pulls at what is kept, and all of them together pull further.
        keep = section.keep * ready.bank.concepts**section.growth
    else:
        mu = section.ridge * mean_square(rows)
        keep = closed_form.weight_of(rows, remains=section.remains, mu=mu)
    left_DN, right_ND = solved(rows, keep=keep, ridge=section.ridge)
    A, B, error = low_rank(left_DN, right_ND @ kernel_DO, section.rank)
    _log.info(
        "%s solved in %.2f s: keep %.3g leaves %.2g of what is erased; rank %d, which is the whole "
        "change within %.2g",
        *(".".join(path), time.monotonic() - began, keep),
        *(closed_form.left_over(rows, left_DN), A.shape[1], error),
    )
    return filled(A, B, _rank(section.rank, kernel_DO.shape))


def solved(rows: Outputs, *, keep: float, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """What is added to an output before the layer: X = left [D, N] right [N, D].

    Args:
      rows: outputs with their weights.
      keep: lambda, weight of a kept prompt beside that of an erased concept.
      ridge: mu, as a share of the erased outputs' mean square.
    """
    return closed_form.solved(rows, keep=keep, mu=ridge * mean_square(rows))


def mean_square(rows: Outputs) -> float:
    """Of the erased outputs: the mean diagonal of their second moment."""
    return float(np.square(rows.erased_ND).sum() / rows.erased_ND.shape[1])


def blank(settings: Settings, template: Any) -> Any:
    """Adapters of the layers that change nothing, {A: [D, r], B: [r, O]} in float32.

    r is embedder.rank, as far as a layer's widths allow.
    """
    adapters: dict[str, Any] = {}
    for path in (LAYER, POOLED) if settings.embedder.encoders == "both" else (LAYER,):
        shape = _at(template, path)["kernel"].shape
        rank = _rank(settings.embedder.rank, shape)
        pair = {"A": jnp.zeros((shape[0], rank)), "B": jnp.zeros((rank, shape[1]))}
        _put(adapters, path, pair)
    return adapters


def _inversions(ready: Ready, weights: Any) -> dict[int, tuple[float, np.ndarray]]:
    """The run's inversions of each concept, searched for in the frozen model, and their weight."""
    settings, bank = ready.settings, ready.bank
    if not settings.embedder.inversions:
        return {}
    search = inversions.Search(
        bank,
        ready.pictures["concept"],
        settings=settings,
        forward=ready.forward,
        mesh=ready.mesh,
    )
    count = search.shape[0]
    found_MND = search.find(weights, None, range(count), fingerprint=ready.fingerprint)
    each = {}
    for concept in range(bank.concepts):
        own = inversions.of_concept(concept, bank.concepts, count)
        e_ND = found_MND[own].reshape(-1, found_MND.shape[-1])
        each[concept] = settings.embedder.inversions, e_ND
    return each


def _rank(rank: int, shape: tuple[int, ...]) -> int:
    return min(rank, *shape)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _put(tree: dict[str, Any], path: tuple[str, ...], leaf: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf
