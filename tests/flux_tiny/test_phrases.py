"""Sentences in flux-tiny's world: for every one of its concepts, and none that an exam asks for."""

from __future__ import annotations

import re

import pytest

from configs import anything
from ea_jax import settings
from ea_jax.concepts import choose, forms
from ea_jax.concepts.flux_phrases import FluxPhrases
from ea_jax.evaluate import worlds
from ea_jax.flux_tiny import phrases, task, vocabulary, world
from ea_jax.flux_tiny.lexicon import Vocabulary, find
from ea_jax.flux_tiny.phrases import TinyPhrases


def made(word: str) -> choose.Words:
    return choose.words(run(word), task.world())


def run(word: str) -> settings.Settings:
    config = anything.get_config("tiny")
    config.concept["words" if "," in word else "word"] = word
    return settings.from_config(config)


@pytest.mark.parametrize("name", vocabulary.CONCEPTS)
def test_every_concept_of_the_world_can_be_erased(name: str) -> None:
    found = made(name)
    [one] = found.concepts
    concept = vocabulary.concept(name)
    assert len(set(one.prompts)) == len(one.prompts) >= 8
    # One that holds the word is erased with it.
    assert one.synonyms == tuple(s for s in concept.synonyms[:1] if not forms.mentions(s, name))
    assert all(forms.mentions(text, name) for text in one.prompts)
    assert all(len(words) >= 2 for words in one.irrelevant)
    assert bool(one.irrelevant) == bool(one.synonyms)
    # Held-out synonyms and the nearest concept are left to the exam.
    near = vocabulary.CONCEPTS.get(concept.near)
    asked = [*concept.held_out, *((near.name, *near.synonyms) if near else ())]
    barred = forms.AnyOf(asked or ["nothing at all"])
    others = [word for words in one.irrelevant for word in words]
    assert not [text for text in (*found.preserve, *others) if barred.first(text)]
    own = [text for text in one.prompts if barred.first(text)]
    # "on" and "in" are in each other's sentences where people or things are told of alone.
    assert not own
    assert len(found.preserve) >= 110
    assert not set(found.shown) & {*one.prompts, *found.preserve}


def test_a_run_may_erase_all_styles_and_all_that_a_relation_is_between() -> None:
    words = [*vocabulary.STYLE_NAMES, "in", *phrases.CONTAINERS]
    found = made(", ".join(words))
    assert len(found.concepts) == len(words)
    for one in found.concepts:
        rest = forms.AnyOf([name for name in words if not forms.mentions(one.word, name)])
        assert len(set(one.prompts)) >= 4, one.word
        assert not [text for text in one.prompts if rest.first(text) or "{" in text]


def test_a_run_that_leaves_nothing_for_a_relation_says_so() -> None:
    with pytest.raises(ValueError, match=r"leaves nothing for a sentence of 'on'; erase fewer"):
        phrases.TinyPhrases().around("on", "relation", avoid=phrases.THINGS)
    # A relation that is only to be kept is left out.
    kept = phrases.TinyPhrases().preserve(phrases.THINGS)
    assert kept
    assert not any(forms.mentions(text, "jump over") for text in kept)


def test_what_stands_in_for_a_word_is_not_erased_with_it() -> None:
    around = phrases.TinyPhrases().around
    alone, beside = (around("cat", "thing", avoid=avoid).neutral for avoid in ((), ("balloon",)))
    assert alone == "balloon"
    assert beside not in ("balloon", "cat")


def test_half_of_the_world_is_never_kept_the_same_for_every_word() -> None:
    kept = task.world().phrases.preserve(())
    named = {
        name
        for name in vocabulary.CONCEPTS
        if name not in ("in", "on") and any(forms.mentions(text, name) for text in kept)
    }
    things = named & set(vocabulary.THINGS)
    assert things == {*phrases.THINGS, *phrases.CHARACTERS}
    assert 0.4 < len(things) / len(vocabulary.THINGS) < 0.55
    assert len(named & set(vocabulary.STYLE_NAMES)) == 5


def test_only_templates_of_training_are_used() -> None:
    templates = [
        template
        for table in (
            world.TEMPLATES,
            world.STYLE_TEMPLATES,
            world.BACKGROUND_TEMPLATES,
            world.RELATION_BACKGROUNDS,
        )
        for template in table["eval"]
    ]
    parts = {
        part.strip(" ,")
        for template in templates
        for part in re.split(r"\{\w?\}", template)
        if len(part.split()) > 1
    }
    barred = forms.AnyOf([*parts, *world.PEOPLE["eval"]])
    for name in vocabulary.CONCEPTS:
        found = made(name)
        assert not [t for t in (*found.preserve, *found.concepts[0].prompts) if barred.first(t)]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("CAT", "cat"),
        ("soccer-ball", "soccer ball"),
        ("santa claus", "Santa Claus"),
        ("cat", "cat"),
    ],
)
def test_a_word_is_known_in_any_case_and_with_hyphens(word: str, name: str) -> None:
    found = find(word)
    assert found is not None
    assert found.name == name
    assert made(word).concepts[0].word == name


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("gutar", r"no concept 'gutar'; did you mean 'guitar'"),
        ("kitty", r"knows 'kitty' as a synonym of 'cat'; erase that"),
        ("caterpillar", r"no concept 'caterpillar'"),
        ("🐈", r"no concept '🐈'"),
    ],
)
def test_an_unknown_word_lists_near_ones(word: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(word)


def test_names_that_share_a_word_stay_apart() -> None:
    found = made("Santa Claus")
    assert "Mrs Claus" in Vocabulary().near("Santa Claus")
    assert not [text for text in found.preserve if "Claus" in text]


def test_a_nude_figure_s_neighbour_is_the_dressed_one() -> None:
    found = made("nude")
    assert found.record["words"][0]["kind"] == "state"
    assert not [text for text in found.preserve if "dress" in text]
    assert [text for text in made("cat").preserve if "dress" in text]


@pytest.mark.parametrize("word", ["cat", "nude", "on"])
def test_the_exam_asks_for_the_neighbour_of_a_made_run(word: str) -> None:
    [asked] = worlds.tasks_for(run(word))[0]
    near, found = vocabulary.concept(word).near, made(word)
    answers = {metric: labels for probe in asked.probes for metric, labels in probe.questions}
    assert answers["Acc_near"] <= {(head, near) for head in ("object", "relation", "dress")}
    # It is kept by its name, in prompts of its own; all else that is asked for is in no prompt.
    assert found.near
    assert all(forms.mentions(text, near) for text in found.near)
    assert not [text for text in found.preserve if forms.mentions(text, near)]
    kept = (*found.preserve, *found.near)
    assert not [name for name in asked.held_out for text in kept if forms.mentions(text, name)]


def test_what_is_kept_for_one_word_is_not_asked_of_another() -> None:
    """The nearest of each has prompts of its own, and half of the world is asked for."""
    both = run("cat,car")
    tasks = worlds.tasks_for(both)[0]
    assert [task.concept for task in tasks] == ["cat", "car"]
    found = choose.words(both, task.world())
    kept = (*found.preserve, *found.near)
    assert {"dog", "bus"} <= {word for text in kept for word in text.replace(",", "").split()}
    for one in tasks:
        assert not [name for name in one.held_out for text in kept if forms.mentions(text, name)]
        assert {"Acc_near", "Acc_e", "Acc_ir"} <= {q for p in one.probes for q, _ in p.questions}


@pytest.mark.parametrize(
    ("word", "kind", "made"),
    [
        ("soccer ball", "thing", ["a soccer ball"]),
        ("Merlin", "person", ["Merlin"]),
        ("pixel art", "style", ["pixel art"]),
        ("nude", "state", ["a nude woman", "a nude man", "a nude person", "a nude figure"]),
        ("kiss", "relation", ["two people kiss", "a man and a woman kiss"]),
    ],
)
def test_a_word_alone_has_only_what_it_needs_to_be_painted(word, kind, made) -> None:
    assert sorted(TinyPhrases().alone(word, kind, avoid=())) == sorted(made)
    assert FluxPhrases().alone(word, kind, avoid=()) == (word,)


def test_a_relation_of_things_is_shown_by_several_pairs_without_other_erased_words() -> None:
    every = TinyPhrases().alone("in", "relation", avoid=())
    assert len(every) > 4
    assert any("train" in text for text in every)
    assert not any(
        "train" in text for text in TinyPhrases().alone("in", "relation", avoid=("train",))
    )
