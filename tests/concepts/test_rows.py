"""A bank's texts: sentences shuffled, and the concept exchanged in each of them."""

from __future__ import annotations

import dataclasses

import pytest

from ea_jax.concepts import rows
from ea_jax.concepts.rows import Concept, Recipe

BALL = Concept(
    "soccer ball",
    ("a {} beside a dog", "a photo of a Soccer Ball"),
    ("football",),
    (("cloud", "grass"), ("shirt",), ("helmet",)),
)
NUDE = Concept("nude", ("a nude woman",))


def test_variants_of_a_row_differ_in_the_concept_alone():
    for row in rows.rows([BALL], Recipe(shuffles=20)):
        # BALL's first sentence is a template, its second has capitals.
        concept = "soccer ball" if "soccer ball" in row.target.text else "Soccer Ball"
        for other, word in zip(row.others, row.words, strict=True):
            assert other.text == row.target.text.replace(concept, word)
        assert row.words[0] == "football"
        assert row.words[1] in ("cloud", "grass")
        assert row.words[2:] == ("shirt", "helmet")


def test_sentences_are_taken_in_turn_and_mostly_shuffled():
    made = rows.rows([BALL], Recipe(shuffles=40, probability=0.5))
    assert [("dog" in row.target.text) for row in made[:4]] == [True, False, True, False]
    unshuffled = [row.target.text in rows.plain(BALL) for row in made]
    assert 10 < sum(unshuffled) < 30
    never = rows.rows([BALL], Recipe(shuffles=40, probability=0.0))
    assert all(row.target.text in rows.plain(BALL) for row in never)


def test_by_word_texts_of_one_length_are_permuted_alike():
    concept = Concept("nude", ("a nude woman beside a cat",), ("bare",), (("wet",), ("calm",)))
    recipe = Recipe(shuffles=8, shuffle="word", probability=1.0, words=2)
    for row in rows.rows([concept], recipe):
        assert sorted(row.target.text.split()) == ["a", "a", "beside", "cat", "nude", "woman"]
        for other, word in zip(row.others, row.words, strict=True):
            assert other.text == row.target.text.replace("nude", word)


def test_k_words_are_drawn_from_the_classes_in_turn():
    classes = (("cloud", "grass"), ("shirt",), ("helmet", "cat"))
    concept = Concept("nude", ("a nude woman",), ("bare",), classes)
    (row,) = rows.rows([concept], Recipe(shuffles=1, words=5))
    drawn = row.words[1:]
    assert {drawn[0], drawn[3]} == {"cloud", "grass"}
    assert drawn[1] == drawn[4] == "shirt"
    (row,) = rows.rows([concept], Recipe(shuffles=1, words=1))
    assert len(row.words) == 2


@pytest.mark.parametrize(
    ("anchor", "neutral", "text"),
    [
        ("removed", None, "a woman"),
        ("replaced", "beautiful", "a beautiful woman"),
        ("empty", None, ""),
        ("sentence", "a cat", "a cat"),
    ],
)
def test_each_anchor_is_without_the_concept(anchor, neutral, text):
    recipe = Recipe(shuffles=1, probability=0.0, anchor=anchor)
    (row,) = rows.rows([dataclasses.replace(NUDE, neutral=neutral)], recipe)
    assert (row.target.text, row.anchor.text) == ("a nude woman", text)


@pytest.mark.parametrize(
    ("concept", "message"),
    [
        (Concept("", ("a {}",)), "concept '' is empty"),
        (Concept("nude", ()), "'nude' has no prompts; give some in concept.sentences"),
        (Concept("nude", ("a woman",)), "concept 'nude' is not in prompt 'a woman'"),
        (Concept("nude", ("a {}",), ("bare",)), "has a synonym but no irrelevant words"),
        (Concept("nude", ("a {}",), ("bare",), ((), ("x",))), "no irrelevant words"),
    ],
)
def test_a_concept_that_cannot_be_used_says_why(concept, message):
    with pytest.raises(ValueError, match=message):
        rows.rows([concept], Recipe())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shuffle": "letter"}, "data.shuffle = 'letter' is unknown"),
        ({"anchor": "none"}, "concept.anchor = 'none' is unknown"),
        ({"shuffles": 0}, "data.shuffles = 0"),
        ({"words": 0}, "data.irrelevant = 0"),
    ],
)
def test_a_recipe_that_cannot_be_used_says_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**arguments)


def test_rows_may_hold_the_word_alone():
    """Whatever its sentences say; with synonyms and anchors as in these."""
    concept = rows.Concept(
        "nude", ("a nude woman in a garden", "a {} man"), also=("naked",), neutral="dressed",
        alone=("a {} person", "{}"),
    )  # fmt: skip
    recipe = rows.Recipe(shuffles=2, probability=0.0, alone=True, anchor="replaced")
    made = rows.rows([concept], recipe)
    texts = ["a nude person", "nude", "a naked person", "naked"]
    assert [row.target.text for row in made] == texts
    assert [row.anchor.text for row in made] == ["a dressed person", "dressed"] * 2
    assert [row.sentence for row in made] == [0, 1] * 2
    assert rows.plain(concept) == ["a nude woman in a garden", "a nude man"]
