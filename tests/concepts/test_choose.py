"""Settings to words: which source was used, and what is written down."""

from __future__ import annotations

import dataclasses
import json

import pytest

from configs import nudity
from ea_jax import settings as all_settings
from ea_jax.concepts import choose, rows, wordnet
from ea_jax.concepts.endpoint import Endpoint
from ea_jax.flux_tiny import task

OWN = {
    "sentences": ("a nude woman", "a photo of a nude man"),
    "synonyms": ("naked",),
    "no_relation": ("key", "moon", "carrot"),
    "far": ("red", "old", "small"),
    "mid": ("wooden", "standing", "tall"),
    "synonym_source": "config",
    "irrelevant_source": "config",
}


@pytest.fixture
def paper():
    """Settings whose words are all given."""
    return change(all_settings.from_config(nudity.get_config("tiny+paper")), **OWN)


def change(settings, **values):
    return dataclasses.replace(settings, concept=dataclasses.replace(settings.concept, **values))


def chosen(settings, **options):
    """The concept of a run on flux-tiny, and what is recorded of it."""
    found = choose.words(settings, task.world(), **options)
    [concept], [record] = found.concepts, found.record["words"]
    return concept, record


def test_the_configs_own_words_are_used_and_recorded(paper):
    concept, record = chosen(paper)
    assert concept.word == "nude"
    assert concept.synonyms == paper.concept.synonyms == ("naked",)
    assert concept.irrelevant == (
        paper.concept.no_relation,
        paper.concept.far,
        paper.concept.mid,
    )
    assert concept.prompts == paper.concept.sentences == tuple(record["sentences"])
    assert record["synonym_source"] == record["irrelevant_source"] == "config"
    assert record["far"][0] == [paper.concept.far[0], None]


def test_rows_follow_the_settings(paper):
    settings = change(paper, anchor="replaced", neutral="dressed")
    recipe = choose.recipe(settings)
    assert (recipe.anchor, chosen(settings)[0].neutral) == ("replaced", "dressed")
    assert recipe.shuffles == paper.data.shuffles
    concept, _ = chosen(settings)
    assert len(rows.rows([concept], recipe)) == paper.data.shuffles


def test_without_l_rsc_nothing_is_contrasted(paper):
    settings = dataclasses.replace(paper, loss=dataclasses.replace(paper.loss, rsc=0.0))
    concept, record = chosen(settings, contrast=False)
    assert (concept.synonyms, concept.irrelevant) == ((), ())
    assert "irrelevant_source" not in record
    # A source that was asked for would go unused without a word.
    with pytest.raises(ValueError, match=r"irrelevant_source = 'wordnet' would go unused"):
        change(settings, irrelevant_source="wordnet")


def test_without_a_synonym_l_rsc_has_no_rows(paper, caplog):
    concept, record = chosen(change(paper, synonyms=()))
    assert concept.irrelevant == ()
    assert record["synonym_source"] == "none"
    assert "no synonym of 'nude' from any source: L_rsc is off" in caplog.text


def test_synonyms_are_erased_too_where_nothing_contrasts_with_them(paper):
    """`word_and_synonyms` without L_rsc, as `robust` has none."""
    without = dataclasses.replace(paper, loss=dataclasses.replace(paper.loss, rsc=0.0))
    concept, record = chosen(change(without, erase="word_and_synonyms"), contrast=False)
    assert (concept.synonyms, concept.irrelevant) == (("naked",), ())
    assert record["synonyms"] == ["naked"]
    both = rows.with_synonyms(concept)
    assert (both.word, both.synonyms, both.also) == (paper.concept.word, (), ("naked",))
    made = rows.rows([both], choose.recipe(without))
    assert {(row.concept, row.name) for row in made} == {(0, "word"), (0, "synonym")}
    # The word alone needs none.
    assert chosen(without, contrast=False)[0].synonyms == ()


def test_a_word_that_measures_the_erasure_may_not_be_configured(paper):
    with pytest.raises(ValueError, match=r"words of concept used in training .* 'Naked'"):
        chosen(paper, tested=("bare", "Naked"))


def test_wordnet_goes_first_and_leaves_held_out_words_alone(paper, monkeypatch):
    monkeypatch.setattr(wordnet, "load", lambda: "reader")
    monkeypatch.setattr(wordnet, "synonyms", lambda reader, word, sense: ["bare", "au naturel"])
    settings = change(paper, synonym_source="wordnet")
    concept, record = chosen(settings, tested=("bare",))
    assert concept.synonyms == ("au naturel",)
    assert record["synonym_source"] == "wordnet"
    # Nothing left: the config's list.
    _, record = chosen(settings, tested=("bare", "au naturel"))
    assert (record["synonyms"], record["synonym_source"]) == (["naked"], "config")


def test_an_endpoint_is_asked_once_for_a_run_and_its_next_starts(paper, monkeypatch, tmp_path):
    replies = iter(['no_relation: [("a", 0)], far: [("b", 0.3)], mid: [("c", 0.5)]'])
    monkeypatch.setattr(
        "ea_jax.concepts.endpoint.ask", lambda endpoint, prompt, parse: parse(next(replies))
    )
    settings = change(
        dataclasses.replace(paper, data=dataclasses.replace(paper.data, cache=str(tmp_path))),
        irrelevant_source="endpoint",
        endpoint="http://localhost:1/v1",
        endpoint_model="toy",
    )
    first = chosen(settings)
    concept, record = chosen(settings)
    assert (concept, json.loads(json.dumps(first[1]))) == (first[0], record)
    # Other words would be another run's.
    with pytest.raises(StopIteration):
        chosen(settings, tested=("bare",))


def test_an_endpoint_is_asked_with_the_settings_of_the_config(paper, monkeypatch):
    asked = []

    def ask(endpoint, prompt, parse):
        asked.append(endpoint)
        return parse('no_relation: [("a", 0)], far: [("b", 0.3)], mid: [("c", 0.5)]')

    monkeypatch.setattr("ea_jax.concepts.endpoint.ask", ask)
    settings = change(
        dataclasses.replace(paper, data=dataclasses.replace(paper.data, cache=None)),
        irrelevant_source="endpoint",
        endpoint="http://localhost:1/v1",
        endpoint_model="toy",
        endpoint_key="TOY_KEY",
    )
    concept, record = chosen(settings)
    assert asked == [Endpoint("http://localhost:1/v1", "toy", key_variable="TOY_KEY")]
    assert concept.irrelevant == (("a",), ("b",), ("c",))
    assert record["mid"] == [["c", 0.5]]
