"""Concepts of the emoji world: what they are called, and what is next to them."""

from __future__ import annotations

import collections
import re

import pytest

from ea_jax.flux_tiny import vocabulary

PAPER = [name for names in vocabulary.PAPER_CONCEPTS.values() for name in names]


def holds(word: str, text: str) -> bool:
    """Whether the word, or phrase, stands whole in the text."""
    return re.search(rf"\b{re.escape(word)}\b", text) is not None


class TestConcepts:
    def test_each_category_of_the_paper_has_ten(self) -> None:
        assert {kind: len(set(n)) for kind, n in vocabulary.PAPER_CONCEPTS.items()} == {
            "entity": 10,
            "abstraction": 10,
            "relationship": 10,
        }

    @pytest.mark.parametrize("name", [*PAPER, vocabulary.NUDE.name])
    def test_it_has_three_synonyms_of_which_training_may_use_the_first(self, name: str) -> None:
        erased = vocabulary.concept(name)
        assert len(set(erased.synonyms)) == len(erased.synonyms) >= 3
        assert erased.trained == erased.synonyms[0]

    @pytest.mark.parametrize("name", [*PAPER, vocabulary.NUDE.name])
    def test_a_held_out_synonym_shares_no_word_with_the_trained_one(self, name: str) -> None:
        erased = vocabulary.concept(name)
        assert erased.held_out
        assert set(erased.held_out) <= set(erased.synonyms)
        held_out = {word for synonym in erased.held_out for word in synonym.split()}
        assert not held_out & set(erased.trained.split())

    @pytest.mark.parametrize("name", [*PAPER, vocabulary.NUDE.name])
    def test_its_nearest_concept_is_another_one_of_the_same_head(self, name: str) -> None:
        erased = vocabulary.concept(name)
        near = vocabulary.concept(erased.near)
        assert near != erased
        assert near.kind == erased.kind

    def test_a_word_means_one_concept_alone(self) -> None:
        meanings = collections.defaultdict(set)
        for concept in vocabulary.CONCEPTS.values():
            for word in (concept.name, *concept.synonyms):
                meanings[word.lower()].add(concept.name)
        assert not {word: names for word, names in meanings.items() if len(names) > 1}

    def test_no_word_of_a_paper_concept_is_part_of_another_concepts_word(self) -> None:
        words = {
            (concept.name, word.lower())
            for concept in vocabulary.CONCEPTS.values()
            for word in (concept.name, *concept.synonyms)
        }
        # Prepositions stand in many phrases; captions are tested below instead.
        mine = {(name, word) for name, word in words if name in PAPER and name not in ("in", "on")}
        assert not [
            (a, b) for a in mine for b in words if a[0] != b[0] and holds(a[1], b[1])
        ]  # fmt: skip

    def test_ten_characters_can_be_erased_and_ten_kept(self) -> None:
        named = vocabulary.CHARACTERS
        assert len(named) >= 20
        assert all(len(c.synonyms) >= 2 and c.near in vocabulary.CONCEPTS for c in named)

    def test_no_two_concepts_share_an_emoji(self) -> None:
        emoji = [vocabulary.concept(name).emoji for name in vocabulary.THINGS]
        emoji += vocabulary.PEOPLE_RELATIONS.values()
        assert all(emoji)
        assert len(set(emoji)) == len(emoji)

    def test_an_unknown_name_is_an_error_that_suggests_one(self) -> None:
        with pytest.raises(ValueError, match=r"no concept 'soccerball'.*'soccer ball'"):
            vocabulary.concept("soccerball")

    def test_both_sources_of_art_are_credited_with_their_licences(self) -> None:
        assert re.search(r"Twemoji.*CC BY 4\.0", vocabulary.ATTRIBUTION)
        assert re.search(r"OpenMoji.*CC BY-SA 4\.0", vocabulary.ATTRIBUTION)
