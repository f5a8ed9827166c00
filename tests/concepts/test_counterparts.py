"""Tokens around a concept are found again where another word is in its place."""

from __future__ import annotations

import dataclasses

import numpy as np
from toy_t5 import t5_tokenizer

from ea_jax.concepts import bank, rows
from ea_jax.concepts.counterparts import around

LENGTH = 8
BALL = rows.Concept("soccer ball", ("a {} beside a dog", "a photo of a {}"), neutral="cloud")


def encode(prompts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((len(prompts), LENGTH, 2)), np.zeros((len(prompts), 2))


def test_every_other_word_goes_to_itself_however_many_tokens_the_concept_has() -> None:
    made = bank.build(
        [dataclasses.replace(BALL, also=("football",))],
        rows.Recipe(shuffles=6, anchor="replaced"), encode=encode,
        tokenizer=t5_tokenizer(), max_length=LENGTH, encoder="random",
    )  # fmt: skip
    tokens = t5_tokenizer()
    there_BT, goal_BT = around(made, made.rows())
    for number in made.rows():
        target, anchor = (
            tokens.tokenize(made.texts(name)[number]) for name in ("target", "anchor")
        )
        own = {"▁soccer", "▁ball", "▁foot", "ball"}
        here = np.flatnonzero(there_BT[number])
        assert here.tolist() == [n for n, token in enumerate(target) if token not in own]
        there = goal_BT[number, here]
        assert [anchor[n] for n in there] == [target[n] for n in here]
        assert sorted(there) == [n for n, token in enumerate(anchor) if token != "▁cloud"]
        assert not goal_BT[number, ~there_BT[number]].any()


def test_a_token_without_a_counterpart_is_left_out() -> None:
    made = bank.build(
        [dataclasses.replace(BALL, prompts=("photo of a {} on grass",))],
        rows.Recipe(shuffles=1, anchor="replaced", probability=0.0), encode=encode,
        tokenizer=t5_tokenizer(), max_length=LENGTH, encoder="random",
    )  # fmt: skip
    # As if the anchor had neither its first word nor its last.
    mask_UT = made.text_mask_UT.copy()
    mask_UT[made.groups["anchor"].prompt_G[0], [0, 5]] = False
    there_BT, goal_BT = around(dataclasses.replace(made, text_mask_UT=mask_UT), np.array([0]))
    assert np.flatnonzero(there_BT[0]).tolist() == [0, 1, 6]
    assert goal_BT[0, there_BT[0]].tolist() == [1, 2, 4]
