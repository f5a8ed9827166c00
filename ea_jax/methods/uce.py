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

import numpy as np

from ea_jax.concepts.bank import PromptBank
from ea_jax.concepts.rows import SYNONYM, WORD
from ea_jax.flux.adapters import Module
from ea_jax.methods import closed_form, kernel_changes, layer_inputs, text_outputs
from ea_jax.methods.method import Method, without_steps
from ea_jax.methods.ready import Ready
from ea_jax.settings import Settings

_log = logging.getLogger(__name__)
LAYERS: dict[str, tuple[Module, ...]] = {
    "embed": (("context_embedder",), ("time_text_embed", "text_embedder", "linear_1")),
    "dual_qk": layer_inputs.QUERIES_AND_KEYS,
}
_NAMES = (WORD, SYNONYM)


def make(ready: Ready) -> Method:
    """The method of a run: its edit is solved from the bank and the frozen model."""

    def edit(weights: Any) -> Any:
        section, began = ready.settings.uce, time.monotonic()
        solve = {"embed": of_embedders, "dual_qk": of_blocks}[section.scope]
        changed = solve(ready, weights)
        _log.info("uce solved in %.2f s", time.monotonic() - began)
        return kernel_changes.edit_of(ready, changed, rank=section.rank)

    return without_steps(edit)


def blank(settings: Settings, template: Any) -> Any:
    """Adapters of the scope's layers that change nothing; none where kernels change whole."""
    section = settings.uce
    return kernel_changes.blank(template, LAYERS[section.scope], rank=section.rank)


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
        [kernel_DO] = kernel_changes.kernels(weights, path)
        found[path] = (left_DN @ (right_ND @ kernel_DO)).astype(np.float32)
    return found


def of_blocks(ready: Ready, weights: Any) -> dict[Module, np.ndarray]:
    """Changes [L, in, out] of Q and K of the text, float32."""
    section = ready.settings.uce
    given, batch = prompts_of(ready, section.templates), ready.settings.sample.batch
    sums = layer_inputs.collect(ready, weights, given, times=section.times, batch=batch)
    kernels = {path: kernel_changes.kernels(weights, path) for path in LAYERS["dual_qk"]}
    found: dict[Module, list[np.ndarray]] = {path: [] for path in kernels}
    strengths = {"erase": section.erase, "keep": section.keep, "stay": section.stay}
    for block, x_DD in enumerate(layer_inputs.solved(sums, **strengths)):
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
            own_BT = np.zeros((len(rows), bank.text_mask_UT.shape[1]), bool)
            row_BN, _ = np.indices(columns.mask_BN.shape)
            np.logical_or.at(own_BT, (row_BN, np.asarray(columns.idx_BN)), columns.mask_BN)
            erased_BT = layer_inputs.together(own_BT)
            goal_BT = np.repeat(guides(bank, rows)[:, None], own_BT.shape[1], 1).astype(np.int32)
            both = layer_inputs.kept(ready, "anchor", rows, first=first).replace(
                erased=bank.text("target", rows), erased_BT=erased_BT, goal_BT=goal_BT
            )
            given.append(both)
            first += len(rows)
    if count := len(bank.groups["preserve"].prompt_G):
        numbers = np.arange(count)
        given.append(layer_inputs.kept(ready, "preserve", numbers, total=count, first=first))
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
        # The empty prompt, an anchor, has nothing but padding.
        own_T = bank.text_mask_UT[number]
        k_TD = bank.t5_UTD[number][own_T] if own_T.any() else bank.t5_UTD[number]
        kept_DD += closed_form.moments(k_TD.astype(np.float64))
    return closed_form.gathered(parts(), kept_DD)


def _of_clip(bank: PromptBank) -> closed_form.Outputs:
    return text_outputs.of_clip(bank, slips=0.0)
