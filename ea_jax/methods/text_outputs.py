"""T5's and CLIP's outputs of a prompt bank as rows of a closed form: what is erased, what is kept.

What is erased of one name of a concept (its word, its synonyms, its slips) weighs one together, as
does each prompt that is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ea_jax.concepts.bank import PromptBank
from ea_jax.concepts.rows import SLIP, SYNONYM, WORD
from ea_jax.methods.closed_form import Outputs, gathered, moments

_ERASED = {"target": ("concept_G", "name_G"), "plain": ("plain_G", "plain_name_G")}


def of_t5(
    bank: PromptBank,
    *,
    slips: float,
    others: Mapping[int, tuple[float, np.ndarray]] | None = None,
    kept_DD: np.ndarray | float = 0.0,
) -> Outputs:
    """T5's outputs: erased at the concepts' tokens, which go to padding's; kept at all others.

    Args:
      bank: encoded prompts.
      slips: weight of all slips of a concept together, beside that of its word.
      others: by concept, further outputs [N, D] that are erased, and their weight together.
      kept_DD: second moments of what is kept beside the bank's own prompts.
    """
    padding_D = padding(bank)
    weights = {WORD: 1.0, SYNONYM: 1.0, SLIP: slips}
    own = np.zeros(len(bank.prompts), bool)
    stays_DD = np.zeros((len(padding_D), len(padding_D))) + kept_DD

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for concept in range(bank.concepts):
            for name, weight in weights.items():
                places_UT = places_of(bank, concept, name)
                own[prompts := np.flatnonzero(places_UT.any(1))] = True
                for number in prompts:
                    k_TD = bank.t5_UTD[number, ~places_UT[number]]
                    stays_DD[...] += moments(k_TD.astype(np.float64))
                yield weighed(bank.t5_UTD[places_UT], weight, padding_D)
            weight, e_ND = (others or {}).get(concept, (0.0, padding_D[None]))
            yield weighed(e_ND, weight, padding_D)
        for number in np.setdiff1d(bank.groups["preserve"].prompt_G, np.flatnonzero(own)):
            stays_DD[...] += moments(bank.t5_UTD[number].astype(np.float64))

    return gathered(parts(), stays_DD)


def of_clip(bank: PromptBank, *, slips: float, kept_DD: np.ndarray | float = 0.0) -> Outputs:
    """CLIP's pooled outputs: those of sentences with a concept go to their anchors'.

    What is kept are the anchors and the prompts to preserve. Arguments as for `of_t5`.
    """
    pooled_UD = bank.pooled_UD.astype(np.float64)
    target_G, anchor_G = (bank.groups[name].prompt_G for name in ("target", "anchor"))
    k_ND = pooled_UD[bank.without]
    weights = {WORD: 1.0, SYNONYM: 1.0, SLIP: slips}

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for concept in range(bank.concepts):
            for name, weight in weights.items():
                rows = bank.rows(concept=concept, names=(name,))
                yield weighed(pooled_UD[target_G[rows]], weight, pooled_UD[anchor_G[rows]])

    return gathered(parts(), k_ND.T @ k_ND + kept_DD)


def weighed(e_ND: np.ndarray, weight: float, goal_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that weigh `weight` together, and their moves to a goal: one for all, or one each."""
    e_ND = e_ND.astype(np.float64)
    share = np.sqrt(weight / max(len(e_ND), 1))
    if not share:
        e_ND, goal_ND = e_ND[:0], e_ND[:0]
    return share * e_ND, share * (goal_ND - e_ND)


def places_of(bank: PromptBank, concept: int, name: str) -> np.ndarray:
    """Where a concept stands by names of one kind, in any prompt, bool [U, T]."""
    places_UT = np.zeros(bank.text_mask_UT.shape, bool)
    for group_name, (of_G, name_G) in _ERASED.items():
        group = bank.groups[group_name]
        chosen = np.flatnonzero((getattr(bank, of_G) == concept) & (getattr(bank, name_G) == name))
        rows, places = np.nonzero(group.mask_GN[chosen])
        places_UT[group.prompt_G[chosen][rows], group.idx_GN[chosen][rows, places]] = True
    return places_UT


def padding(bank: PromptBank) -> np.ndarray:
    """T5's mean output at padding: behind a text and its end."""
    length_U = bank.text_mask_UT.sum(-1)
    padding_UT = np.arange(bank.text_mask_UT.shape[1]) > length_U[:, None]
    return bank.t5_UTD[padding_UT].astype(np.float64).mean(0)
