"""Tokens around a concept, and the same ones where another word is in its place."""

from __future__ import annotations

import numpy as np

from ea_jax.concepts.bank import PromptBank


def around(bank: PromptBank, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of rows' sentences beside the concept's, and their counterparts in the anchors.

    Those before the concept are counted from the front, those behind it from the end: another word
    may have more tokens, and another article. One that is left without a counterpart counts as
    none.

    Args:
      bank: encoded prompts.
      rows: whose anchors have a word in the concept's place.
    Returns:
      bool [B, T], True at such tokens; int32 [B, T], their counterparts, 0 elsewhere.
    """
    there_BT = np.zeros((len(rows), bank.text_mask_UT.shape[1]), bool)
    goal_BT = np.zeros(there_BT.shape, np.int32)
    for n, row in enumerate(rows):
        here, there = (_beside(bank, group, row) for group in ("target", "anchor"))
        for own, others in zip(here, there, strict=True):
            count = min(len(own), len(others))
            there_BT[n, own[:count]], goal_BT[n, own[:count]] = True, others[:count]
    return there_BT, goal_BT


def _beside(bank: PromptBank, name: str, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a prompt before its concept, or what stands for it; those behind it, backwards."""
    group = bank.groups[name]
    own = group.idx_GN[row][group.mask_GN[row]]
    others = np.setdiff1d(np.flatnonzero(bank.text_mask_UT[group.prompt_G[row]]), own)
    return others[others < own.min()], others[others > own.min()][::-1]
