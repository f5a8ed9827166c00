"""Articles: which one a word takes in a sentence."""

from __future__ import annotations

import pytest

from ea_jax.concepts import articles


@pytest.mark.parametrize(
    ("word", "kind", "said"),
    [
        ("cat", "animal", "a cat"),
        ("hourglass", "thing", "an hourglass"),
        ("UFO", "thing", "a UFO"),
        ("iPhone", "thing", "an iPhone"),
        ("shoes", "thing", "shoes"),
        ("mice", "animal", "mice"),
        ("glasses", "thing", "glasses"),
        ("bus", "thing", "a bus"),
        ("octopus", "animal", "an octopus"),
        ("bunch of grapes", "thing", "a bunch of grapes"),
        ("black coffee", "thing", "black coffee"),
        ("smoking", "idea", "smoking"),
        ("building", "thing", "a building"),
        ("sun", "thing", "the sun"),
        ("Bruce Lee", "person", "Bruce Lee"),
        ("doctor", "person", "a doctor"),
        ("the Beatles", "person", "the Beatles"),
        ("Paris", "place", "Paris"),
        ("beach", "place", "a beach"),
        ("Eiffel Tower", "place", "the Eiffel Tower"),
        ("Statue of Liberty", "place", "the Statue of Liberty"),
        ("United States", "place", "the United States"),
        ("Tower Bridge", "place", "Tower Bridge"),
        ("Mount Fuji", "place", "Mount Fuji"),
        ("Ferrari", "thing", "a Ferrari"),
        ("violence", "idea", "violence"),
        ("democracy", "idea", "democracy"),
        ("wedding", "idea", "a wedding"),
        ("Nike", "brand", "Nike"),
    ],
)
def test_a_word_has_the_article_that_english_gives_it(word: str, kind: str, said: str) -> None:
    assert articles.with_article(word, kind) == said


@pytest.mark.parametrize(
    ("verb", "said"), [("smile", "smiling"), ("swim", "swimming"), ("talk", "talking")]
)
def test_a_verb_becomes_a_participle(verb: str, said: str) -> None:
    assert articles.participle(verb) == said
    assert articles.is_participle(f"{said} in pairs")


def test_a_relation_that_is_no_participle_is_told_apart() -> None:
    assert not articles.is_participle("hold hands")
    assert not articles.is_participle("king to king")
