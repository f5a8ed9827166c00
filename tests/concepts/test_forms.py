"""A word is the word in every form, wherever words are compared; and no other word is."""

from __future__ import annotations

import dataclasses

import pytest

from configs import nudity, soccer
from ea_jax import settings as all_settings
from ea_jax.concepts import choose, forms, held_out, irrelevant, rows, synonyms
from ea_jax.evaluate import probes, worlds
from ea_jax.flux_tiny import task


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a photo of nudes", "nude"),
        ("a nude", "nudes"),
        ("three geese", "goose"),
        ("two people kissing", "kiss"),
        ("they kissed", "kissing"),
        ("they held hands", "hold hands"),
        ("the cat's tail, the cats\u2019 tails", "cat"),
        ("cats'", "cat"),
        ("a soccer-ball", "soccer ball"),
        ("SOCCER_BALLS", "soccer ball"),
        ("soccer\u2011ball", "soccer ball"),
        ("two soccerballs", "soccer ball"),
        ("a soccer\u200bball", "soccer ball"),
        ("a foot-ball", "football"),
        ("tshirt", "t-shirt"),
        ("two Draculas", "Dracula"),
        ("Jack O\u2019Lanterns", "Jack O'Lantern"),
        ("Van Gogh-like", "van gogh"),
        ("nu\u00addes", "nude"),
        ("c++ code", "C++"),
        ("一只猫在草地上", "猫"),
    ],
)
def test_a_form_of_a_word_counts_as_the_word(text: str, word: str) -> None:
    assert forms.mentions(text, word)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a university", "universe"),
        ("the universe", "university"),
        ("a red dress", "dressed"),
        ("undressed", "dressed"),
        ("nudity", "nude"),
        ("a bear", "bare"),
        ("bare", "bear"),
        ("an inn", "in"),
        ("inside", "in"),
        ("the ones", "on"),
        ("a glass greenhouse", "glasses"),
        ("to build", "building"),
        ("an even surface", "evening"),
        ("basketball", "ball"),
        ("a ball of soccer", "soccer ball"),
        ("to get her", "together"),
        ("c a b", "C++"),
    ],
)
def test_another_word_is_no_form_of_it(text: str, word: str) -> None:
    assert not forms.mentions(text, word)


def test_two_phrases_are_the_same_only_as_a_whole() -> None:
    assert forms.same("Soccer-balls", "soccer ball")
    assert forms.same("nude", "nudes")
    assert not forms.same("a nude man", "nude")


@pytest.mark.parametrize("kept", ["a photo of nudes", "a nude-coloured wall", "NUDE_art"])
def test_what_is_kept_may_hold_no_form_of_what_is_erased(kept: str) -> None:
    with pytest.raises(ValueError, match=rf"keep '{kept}' holds the concept 'nude', or a form of"):
        rows.require_absent("nude", ["a tree", kept], setting="keep")


def settings(config, **concept) -> all_settings.Settings:
    made = all_settings.from_config(config)
    return dataclasses.replace(made, concept=dataclasses.replace(made.concept, **concept))


def test_a_synonym_may_not_be_kept_nor_be_the_anchor() -> None:
    config, world = nudity.get_config("tiny+paper"), task.world()
    own = {"synonyms": ("naked",)}
    with pytest.raises(ValueError, match=r"preserve_prompts 'a naked-ish man' holds .* 'naked'"):
        choose.words(settings(config, preserve_prompts=("a naked-ish man",), **own), world)
    with pytest.raises(ValueError, match=r"concept\.neutral 'nudes' holds the concept 'nude'"):
        choose.words(settings(config, anchor="replaced", neutral="nudes", **own), world)
    with pytest.raises(ValueError, match=r"concept\.anchor_sentence 'a naked.*' holds .* 'naked'"):
        choose.words(
            settings(config, anchor="sentence", anchor_sentence="a naked_man", **own), world
        )


def test_an_anchor_may_not_keep_another_form_of_the_concept() -> None:
    concept = rows.Concept("nude", ("a nude among nudes",))
    with pytest.raises(ValueError, match=r"'a nude among nudes' the anchor 'an among nudes' holds"):
        rows.rows([concept], rows.Recipe(shuffles=1))


def test_held_out_words_are_found_in_every_form() -> None:
    with pytest.raises(ValueError, match="'peck' is in training prompt 'two people pecked'"):
        held_out.assert_absent(["peck"], ["two people hug", "two people pecked"])
    with pytest.raises(ValueError, match="words used in training and in evaluation: 'pecks'"):
        held_out.assert_disjoint(["Peck", "hug"], ["snog", "pecks"])


def test_a_source_gives_neither_forms_of_the_concept_nor_of_what_is_held_out() -> None:
    given = {"wordnet": lambda word: ["Nudes", "nude", "Bares", "naked"]}
    assert synonyms.find("nude", given, avoid=("bare",)).words == ("naked",)
    lists = {"no_relation": ["cloud"], "far": ["hot"], "mid": ["nudes"]}
    with pytest.raises(ValueError, match="irrelevant word 'nudes' is the concept 'nude'"):
        irrelevant.from_lists(lists, "nude")
    with pytest.raises(ValueError, match=r"'clouds' is the concept 'nude', a synonym of it, or"):
        irrelevant.from_lists({**lists, "no_relation": ["clouds"]}, "nude", avoid=("cloud",))


def test_a_prompt_of_an_exam_is_known_again_in_another_form() -> None:
    probe = probes.Probe("A soccer ball, blue background", 0, ())
    with pytest.raises(ValueError, match="1 evaluation prompts were trained on"):
        probes.check_held_out([probe], ["a cat", "a soccer-ball blue  background"])
    probes.check_held_out([probe], ["a soccer ball, red background"])


def test_an_exam_does_not_ask_for_what_training_has_in_another_form() -> None:
    config = settings(soccer.get_config(), preserve_prompts=("two bicycles", "three penguins"))
    words = worlds.tasks_for(config)[0][0].held_out
    assert "penguin" not in words
    assert "bicycle" not in words
    assert "penguin" in worlds.tasks_for(settings(soccer.get_config()))[0][0].held_out
    # The owl is among what every run keeps.
    assert "owl" not in worlds.tasks_for(settings(soccer.get_config()))[0][0].held_out


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("two hand guns on a table", "handgun"),
        ("a photo of a soccer ball", "soccerball"),
        ("cafes in Paris", "café"),
        ("a Pokemon card", "Pokémon"),
        ("many selfies", "selfie"),
        ("hoodies and caps", "hoodie"),
    ],
)
def test_halves_accents_and_rare_plurals_count(text: str, word: str) -> None:
    assert forms.mentions(text, word)


@pytest.mark.parametrize(
    ("text", "word"),
    [("to get her home", "together"), ("in side streets", "inside"), ("a cat nap", "catnip")],
)
def test_short_words_side_by_side_are_no_word(text: str, word: str) -> None:
    assert not forms.mentions(text, word)
