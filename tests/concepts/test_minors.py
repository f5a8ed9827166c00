"""No text about nudity comes near a word for a minor, whoever wrote it, in any spelling."""

from __future__ import annotations

import dataclasses

import pytest

from configs import anything
from ea_jax import settings
from ea_jax.concepts import choose, lists, minors
from ea_jax.evaluate import worlds
from ea_jax.flux_tiny import task


@pytest.mark.parametrize(
    "text",
    [
        "a girl",
        "GIRLS",
        "a boy's room",
        "children",
        "school-girl",
        "a g1rl",
        "g i r l",
        "g.i.r.l",
        "a gir\u200bl",
        "\uff47\uff49\uff52\uff4c",  # full width
        "a g\u0456rl",  # a Cyrillic letter
        "giiiirl",
        "a young woman",
        "a 15 year old",
        "a seventeen-year-old",
        "16yo",
        "aged twelve",
        "une fille",
        "garcon",
        "少女の写真",
        "under age",
    ],
)
def test_a_word_for_a_minor_is_found_in_every_spelling(text: str) -> None:
    assert minors.minor_in(text)


@pytest.mark.parametrize(
    "text", ["nude", "Nudes", "NAKED", "n u d e", "nuuude", "n\u0430ked", "topless"]
)
def test_nudity_is_found_in_every_spelling(text: str) -> None:
    assert minors.nudity_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "a woman in a red dress",
        "an 18 year old whisky",
        "a 1990 car",
        "a song",
        "a kidney",
        "a kind man",
        "a teapot",
        *lists.lines("preserve.txt"),
    ],
)
def test_other_texts_hold_neither(text: str) -> None:
    assert (minors.minor_in(text), minors.nudity_in(text)) == (None, None)


def test_minors_are_an_error_only_beside_nudity() -> None:
    minors.require_adults(["a boy with a kite", "a cat"])
    minors.require_adults(["a nude woman", "a cat"])
    with pytest.raises(
        ValueError, match=r"'a boy with a kite' has 'boy', a word for a minor, in a"
    ):
        minors.require_adults(["a nude woman", "a boy with a kite"])


def run(word: str, **given) -> settings.Settings:
    config = anything.get_config("flux-dev")
    config.concept.word = word
    made = settings.from_config(config)
    sample = dataclasses.replace(made.sample, prompts=given.pop("prompts", ()))
    concept = dataclasses.replace(made.concept, **given)
    return dataclasses.replace(made, concept=concept, sample=sample)


@pytest.mark.parametrize(
    "given",
    [
        {"sentences": ("a nude g1rl",)},
        {"preserve_prompts": ("a schoolboy",)},
        {"prompts": ("a teen",)},
        {"synonyms": ("baby-like",)},
        {"far": ("young",), "mid": ("tall",), "no_relation": ("cloud",)},
        {"anchor": "sentence", "anchor_sentence": "a kid"},
    ],
)
def test_no_text_of_a_run_about_nudity_names_a_minor(given) -> None:
    world = worlds.open_world()._replace(closed=True)
    with pytest.raises(ValueError, match="a word for a minor, in a run that is about nudity"):
        choose.words(run("nude", **given), world)


def test_a_word_for_a_minor_is_never_erased_together_with_nudity() -> None:
    made = run("nude")
    both = dataclasses.replace(made.concept, word=None, words="nude,baby")
    with pytest.raises(ValueError, match="'baby', a word for a minor"):
        choose.words(
            dataclasses.replace(made, concept=both), worlds.open_world()._replace(closed=True)
        )


def test_an_endpoint_s_words_are_looked_at_too(monkeypatch) -> None:
    replies = iter(
        [
            '["in the nude"]',
            'no_relation: [["key", 0]], far: [["girly", 0.3], ["girl", 0.3]], mid: [["tall", 0.5]]',
        ]
    )
    monkeypatch.setattr(
        "ea_jax.concepts.endpoint.ask", lambda endpoint, prompt, parse: parse(next(replies))
    )
    made = run(
        "unclad",
        kind="state",
        endpoint="http://localhost:1/v1",
        endpoint_model="toy",
        synonym_source="endpoint",
        irrelevant_source="endpoint",
    )
    made = dataclasses.replace(made, data=dataclasses.replace(made.data, cache=None))
    with pytest.raises(ValueError, match="has 'girl', a word for a minor"):
        choose.words(made, task.world())
