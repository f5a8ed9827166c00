"""UCE, "Unified Concept Editing in Diffusion Models" (Gandikota et al. 2024): a closed form.

    W' = (lambda W + e sum v* c' + p sum W k k') (lambda I + e sum c c' + p sum k k')^-1,   v* = W g

c are a layer's inputs at the concept's last token, g those at its guide's, which stands in its
place (section `concept`, anchor=replaced; else the end of the anchor's prompt), k the inputs of
prompts without the concept. With kernels as we have them, [in, out], the change is

    delta = (lambda I + e C'C + p K'K)^-1 e C'(G - C) W

Scope `embed` are the layers that read T5's and CLIP's outputs, as in the authors' script for FLUX.
`dual_qk` is Q and K of the text in the dual blocks, which EraseAnything's paper compares with: all
of the concept's tokens, at several noise levels. Q and K are normalised, so that a concept's vector
has to turn to its guide's: a shorter one would be the same.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ea_jax.concepts.bank import PromptBank
from ea_jax.concepts.rows import SYNONYM, WORD
from ea_jax.flux.adapters import Module, kernel_shapes
from ea_jax.flux.transformer import Text
from ea_jax.methods import closed_form, layer_inputs, text_outputs
from ea_jax.methods.method import Method, without_steps
from ea_jax.methods.ready import Ready
from ea_jax.runtime.hosts import on_host
from ea_jax.settings import Settings

_log = logging.getLogger(__name__)
_STACK = "transformer_blocks"
LAYERS: dict[str, tuple[Module, ...]] = {
    "embed": (("context_embedder",), ("time_text_embed", "text_embedder", "linear_1")),
    "dual_qk": ((_STACK, "attn", "add_q_proj"), (_STACK, "attn", "add_k_proj")),
}
_NAMES = (WORD, SYNONYM)


def make(ready: Ready) -> Method:
    """The method of a run: its edit is solved from the bank and the frozen model."""

    def edit(weights: Any) -> Any:
        section, began = ready.settings.uce, time.monotonic()
        solve = {"embed": of_embedders, "dual_qk": of_blocks}[section.scope]
        changed = {path: {"kernel": delta} for path, delta in solve(ready, weights).items()}
        _log.info("uce solved in %.2f s", time.monotonic() - began)
        if not section.rank:
            return ready.edit(deltas=traverse_util.unflatten_dict(changed))
        low = {path: _low_rank(path, one["kernel"], section.rank) for path, one in changed.items()}
        return ready.edit(traverse_util.unflatten_dict(low))

    return without_steps(edit)


def blank(settings: Settings, template: Any) -> Any:
    """Adapters of the scope's layers that change nothing; none where kernels change whole."""
    section, shapes = settings.uce, kernel_shapes(template)
    found = {}
    for path in LAYERS[section.scope] if section.rank else ():
        *stack, wide_in, wide_out = shapes[path]
        rank = min(section.rank, wide_in, wide_out)
        pair = {"A": jnp.zeros((*stack, wide_in, rank)), "B": jnp.zeros((*stack, rank, wide_out))}
        found[path] = pair
    return traverse_util.unflatten_dict(found)


def of_embedders(ready: Ready, weights: Any) -> dict[Module, np.ndarray]:
    """Changes [in, out] of the layers that read the text encoders' outputs, float32."""
    section, bank, found = ready.settings.uce, ready.bank, {}
    for path, rows in zip(LAYERS["embed"], (_of_t5(bank), _of_clip(bank)), strict=True):
        # Rows weigh e in the products of two of them.
        scaled = closed_form.Outputs(
            np.sqrt(section.erase) * rows.erased_ND,
            np.sqrt(section.erase) * rows.moves_ND,
            rows.kept_DD,
        )
        left_DN, right_ND = closed_form.solved(scaled, keep=section.keep, mu=section.stay)
        [kernel_DO] = _kernels(weights, path)
        found[path] = (left_DN @ (right_ND @ kernel_DO)).astype(np.float32)
    return found


def of_blocks(ready: Ready, weights: Any) -> dict[Module, np.ndarray]:
    """Changes [L, in, out] of Q and K of the text, float32."""
    section = ready.settings.uce
    given, batch = prompts_of(ready, section.templates), ready.settings.sample.batch
    sums = layer_inputs.collect(ready, weights, given, times=section.times, batch=batch)
    kernels = {path: _kernels(weights, path) for path in LAYERS["dual_qk"]}
    found: dict[Module, list[np.ndarray]] = {path: [] for path in kernels}
    for block in range(ready.forward.model.num_layers):
        erased_DD, moved_DD, kept_DD = (
            on_host(total_LDD[block]).astype(np.float64)
            for total_LDD in (sums.erased_LDD, sums.moved_LDD, sums.kept_LDD)
        )
        gram_DD = section.erase * erased_DD + section.keep * kept_DD
        gram_DD[np.diag_indices(len(gram_DD))] += section.stay
        x_DD = np.linalg.solve(gram_DD, section.erase * moved_DD)
        for path, each in kernels.items():
            found[path].append((x_DD @ each[block]).astype(np.float32))
    return {path: np.stack(deltas) for path, deltas in found.items()}


def prompts_of(ready: Ready, templates: int) -> list[layer_inputs.Prompts]:
    """Sentences of the concepts beside those with their guides, and prompts to preserve.

    Args:
      ready: with the bank that has them.
      templates: rows of each name of a concept; its word weighs one, as do its synonyms.
    """
    bank, given, first = ready.bank, [], 0
    for concept in range(bank.concepts):
        for name in _NAMES:
            rows = bank.rows(concept=concept, names=(name,))[:templates]
            if not len(rows):
                continue
            columns = bank.columns("target", rows)
            erased_BT = np.zeros((len(rows), bank.text_mask_UT.shape[1]), np.float32)
            guide_BT = np.zeros_like(erased_BT)
            guide_BT[np.arange(len(rows)), guides(bank, rows)] = 1
            mask_BN = np.asarray(columns.mask_BN)
            share_B1 = 1 / (len(rows) * mask_BN.sum(-1, keepdims=True))
            row_BN, _ = np.indices(mask_BN.shape)
            np.add.at(erased_BT, (row_BN, np.asarray(columns.idx_BN)), mask_BN * share_B1)
            given.append(
                layer_inputs.Prompts(
                    kept=bank.text("anchor", rows),
                    kept_B=np.full(len(rows), 1 / len(rows), np.float32),
                    seed_B=layer_inputs.seeds(ready, first, len(rows)),
                    erased=bank.text("target", rows),
                    erased_BT=erased_BT,
                    guide_BT=guide_BT,
                )
            )
            first += len(rows)
    if count := len(bank.groups["preserve"].prompt_G):
        text: Text = bank.text("preserve", range(count))
        own = layer_inputs.seeds(ready, first, count)
        given.append(layer_inputs.Prompts(text, np.ones(count, np.float32), own))
    return given


def guides(bank: PromptBank, rows: np.ndarray) -> np.ndarray:
    """Position of the guide in the anchors of rows: its last token, or the end of the prompt."""
    columns, prompts = bank.columns("anchor", rows), bank.groups["anchor"].prompt_G[rows]
    last_B = np.where(columns.mask_BN, columns.idx_BN, 0).max(-1)
    end_B = bank.text_mask_UT[prompts].sum(-1)
    there_B = np.asarray(columns.mask_BN).any(-1)
    return np.where(there_B, last_B, np.minimum(end_B, bank.text_mask_UT.shape[1] - 1))


def _of_t5(bank: PromptBank) -> closed_form.Outputs:
    """T5's outputs at the concepts' last tokens, which go to their guides'."""
    target, anchor = bank.groups["target"], bank.groups["anchor"]

    def parts() -> Any:
        for concept in range(bank.concepts):
            for name in _NAMES:
                rows = bank.rows(concept=concept, names=(name,))
                last = np.where(target.mask_GN[rows], target.idx_GN[rows], 0).max(-1)
                c_ND = bank.t5_UTD[target.prompt_G[rows], last]
                g_ND = bank.t5_UTD[anchor.prompt_G[rows], guides(bank, rows)]
                yield text_outputs.weighed(c_ND, 1.0, g_ND.astype(np.float64))

    width = bank.t5_UTD.shape[-1]
    kept_DD = np.zeros((width, width))
    for number in bank.without:
        kept_DD += closed_form.moments(bank.t5_UTD[number].astype(np.float64))
    return closed_form.gathered(parts(), kept_DD)


def _of_clip(bank: PromptBank) -> closed_form.Outputs:
    return text_outputs.of_clip(bank, slips=0.0)


def _kernels(weights: Any, path: Module) -> list[np.ndarray]:
    """A layer's kernel in each block, or the one that it has, float64."""
    first, *rest = path

    def at(tree: Any, names: Any) -> Any:
        for name in names:
            tree = tree[name]
        return tree["kernel"]

    stack = weights[first]
    if isinstance(stack, tuple):
        kernels = [on_host(at(block, rest)) for block in stack]
    else:
        kernel = on_host(at(stack, rest))
        kernels = list(kernel) if kernel.ndim == 3 else [kernel]
    return [kernel.astype(np.float64) for kernel in kernels]


def _low_rank(path: Module, delta: np.ndarray, rank: int) -> dict[str, np.ndarray]:
    """An adapter of a layer whose product is nearest to a change of its kernel."""
    pairs, worst = [], 0.0
    for delta_DO in delta if delta.ndim == 3 else delta[None]:
        wide = np.eye(len(delta_DO))
        A, B, error = closed_form.low_rank(wide, delta_DO.astype(np.float64), rank)
        pairs.append(closed_form.filled(A, B, min(rank, *delta_DO.shape)))
        worst = max(worst, error)
    _log.info("%s: rank %d, which is the whole change within %.2g", ".".join(path), rank, worst)
    stacked = {name: np.stack([pair[name] for pair in pairs]) for name in ("A", "B")}
    return stacked if delta.ndim == 3 else {name: leaf[0] for name, leaf in stacked.items()}
