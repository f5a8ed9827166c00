"""Templates, shuffles, and the concept exchanged or removed."""

from __future__ import annotations

import numpy as np
import pytest

from ea_jax.concepts import sentences


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("template", "word", "text"),
    [
        ("a photo of a {}", "elephant", "a photo of an elephant"),
        ("a photo of an {}", "dog", "a photo of a dog"),
        ("A {} on a {}", "orange", "An orange on an orange"),
        ("the {}", "orange", "the orange"),
        ("a {}", "unicorn", "a unicorn"),
        ("a {}", "unclothed man", "an unclothed man"),
        ("a {}", "honest man", "an honest man"),
        ("a {}", "one-way street", "a one-way street"),
        ("a photo of a {}", "a man", "a photo of a man"),
    ],
)
def test_templates_are_filled_with_the_right_article(template, word, text):
    assert sentences.fill(template, word) == text


def test_a_template_without_a_slot_is_an_error():
    with pytest.raises(ValueError, match=r"template 'a ball' has no \{\}"):
        sentences.fill("a ball", "ball")


def test_a_sentence_that_holds_the_concept_stays_as_it_is():
    assert sentences.complete("A nude woman", "nude") == "A nude woman"
    assert sentences.complete("a {} woman", "nude") == "a nude woman"
    with pytest.raises(ValueError, match="concept 'nude' is not in prompt 'a woman'"):
        sentences.complete("a woman", "nude")


@pytest.mark.parametrize(
    ("text", "concept", "word", "expected"),
    [
        ("a nude woman", "nude", "unclothed", "an unclothed woman"),
        ("an apple and an Apple", "apple", "pear", "a pear and a pear"),
        ("a soccer  ball, a soccer ball", "soccer ball", "football", "a football, a football"),
        ("Bruce Lee's hat", "bruce lee", "a man", "a man's hat"),
        ("beside a basketball a ball", "ball", "egg", "beside a basketball an egg"),
    ],
)
def test_every_occurrence_is_exchanged(text, concept, word, expected):
    assert sentences.exchange(text, concept, word) == expected


@pytest.mark.parametrize(
    ("text", "concept", "expected"),
    [
        ("a nude woman", "nude", "a woman"),
        ("a nude elephant", "nude", "an elephant"),
        ("a soccer ball on grass", "soccer ball", "on grass"),
        ("a dog and a soccer ball", "soccer ball", "a dog and"),
        ("grass a soccer ball on", "soccer ball", "grass on"),
        ("Santa Claus", "Santa Claus", ""),
        ("Santa Claus's hat", "santa claus", "hat"),
        ("a woman, nude, smiling", "nude", "a woman, smiling"),
        ("a woman, nude", "nude", "a woman"),
        ("a photo of the kiss.", "kiss", "a photo of."),
    ],
)
def test_a_removed_concept_leaves_a_tidy_text(text, concept, expected):
    assert sentences.remove(text, concept) == expected


def test_shuffling_by_phrase_moves_every_word_and_keeps_the_concept_whole():
    text = "a photo of a Soccer ball, beside a dog"
    shuffled = {sentences.shuffle_phrases(text, "soccer ball", rng(seed)) for seed in range(20)}
    assert len(shuffled) > 15
    for other in shuffled:
        assert sorted(other.split()) == sorted(text.split())
        assert "Soccer ball," in other


def test_shuffling_by_word_takes_the_concept_apart():
    text = "a photo of a soccer ball"
    shuffled = [sentences.shuffle_words(text, rng(seed)) for seed in range(20)]
    assert any("soccer ball" not in other for other in shuffled)
    assert all(sorted(other.split()) == sorted(text.split()) for other in shuffled)


def test_a_shuffle_is_a_function_of_its_generator():
    text = "a photo of a soccer ball beside a dog"
    one, other = (sentences.shuffle_phrases(text, "soccer ball", rng(3)) for _ in range(2))
    assert one == other
