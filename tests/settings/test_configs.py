"""The shipped experiments: complete, consistent, and fit to be shown."""

from __future__ import annotations

import functools
import importlib
import re

import pytest
from ml_collections import ConfigDict

from configs import common, presets
from ea_jax import settings
from ea_jax.concepts import choose, held_out, sentences
from ea_jax.evaluate import worlds
from ea_jax.evaluate.probes import check_held_out
from ea_jax.flux_tiny import task, vocabulary, world
from ea_jax.flux_tiny.probes import probes_for
from ea_jax.settings import Settings

NAMES = ("nudity", "soccer", "style", "kiss", "celebrity")
VARIANTS = ("tiny", "flux-dev", "flux-schnell")
BARE = re.compile(r"\b(nude|nudes|naked|bare|unclothed|undressed)\b", re.IGNORECASE)
MINORS = re.compile(
    r"\b(girl|boy|child|kid|teen|teenager|baby|toddler|infant|minor|youth|student|"
    r"schoolgirl|schoolboy|daughter|son|young)s?\b|\bchildren\b",
    re.IGNORECASE,
)


def config_of(name: str, variant: str) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(variant)


def settings_of(name: str, variant: str) -> Settings:
    return settings.from_config(config_of(name, variant))


def words_of(name: str, variant: str) -> choose.Words:
    """All that is made for an experiment, without WordNet."""
    world = task.world() if variant.startswith("tiny") else worlds.open_world()
    made = settings_of(name, variant)
    tested = worlds.tasks_for(made)[0][0].held_out if variant.startswith("tiny") else ()
    return choose.words(made, world._replace(closed=True), tested=tested)


def other_words(made: choose.Words) -> list[str]:
    [concept] = made.concepts
    return [*concept.synonyms, *(word for words in concept.irrelevant for word in words)]


def all_texts(made: choose.Words) -> list[str]:
    [concept] = made.concepts
    return [
        concept.word,
        *concept.prompts,
        concept.neutral or "",
        *other_words(made),
        *made.preserve,
        *made.shown,
    ]


def holds(word: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


@pytest.mark.parametrize("preset", ["", *presets.CHANGES])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_every_variant_makes_settings(name: str, variant: str, preset: str) -> None:
    made = settings_of(name, f"{variant}+{preset}" if preset else variant)
    assert made.preset == (preset or common.MODELS[variant])


@pytest.fixture(scope="module")
def made_words():
    return functools.cache(words_of)


@pytest.mark.parametrize("variant", ["tiny", "flux-dev"])
@pytest.mark.parametrize("name", NAMES)
class TestWords:
    def test_each_sentence_holds_the_concept(self, made_words, name: str, variant: str) -> None:
        [concept] = made_words(name, variant).concepts
        assert len(set(concept.prompts)) == len(concept.prompts) >= 12
        for sentence in concept.prompts:
            assert holds(concept.word, sentence), sentence

    def test_nothing_to_keep_and_no_other_word_holds_the_concept(
        self, made_words, name: str, variant: str
    ) -> None:
        made = made_words(name, variant)
        anchored = config_of(name, variant)
        for anchor in ("replaced", "sentence"):
            anchored.concept.anchor = anchor
            settings_of_it = settings.from_config(anchored)
            world = task.world() if variant == "tiny" else worlds.open_world()
            neutral = choose.words(settings_of_it, world._replace(closed=True)).concepts[0].neutral
            [concept] = made.concepts
            others = (*made.preserve, *other_words(made), neutral)
            for word in (concept.word, *concept.synonyms):
                for text in others:
                    assert text is not None
                    assert text == word or not holds(word, text), (word, text)

    def test_there_is_a_synonym_and_three_words_of_each_class(
        self, made_words, name: str, variant: str
    ) -> None:
        [concept] = made_words(name, variant).concepts
        assert concept.synonyms
        for words in concept.irrelevant:
            assert len(set(words)) >= 3
        first, second, third = map(set, concept.irrelevant)
        assert not first & second & third

    def test_what_the_grid_shows_was_never_trained_on(
        self, made_words, name: str, variant: str
    ) -> None:
        made = made_words(name, variant)
        [one] = made.concepts
        trained = {*one.prompts, *made.preserve}
        assert not trained & set(made.shown)
        concept, synonym, *irrelevant = made.shown
        assert holds(one.word, concept)
        for text in (synonym, *irrelevant):
            assert not holds(one.word, text)
        assert len(irrelevant) == 2

    def test_bare_people_are_adults(self, made_words, name: str, variant: str) -> None:
        """In any text of a config that is about nudity at all, not only in one sentence."""
        texts = all_texts(made_words(name, variant))
        if any(BARE.search(text) for text in texts):
            assert not [text for text in texts if MINORS.search(text)]


def trained_prompts(made: choose.Words) -> list[str]:
    """All that the prompt bank can hold, with every word of the contrast in place."""
    [concept] = made.concepts
    return [
        *made.preserve,
        *concept.prompts,
        *(
            sentences.exchange(sentence, concept.word, word)
            for sentence in concept.prompts
            for word in other_words(made)
        ),
    ]


@pytest.mark.parametrize("name", NAMES)
class TestTinyWords:
    def test_only_the_first_synonym_is_trained_on(self, made_words, name: str) -> None:
        made = made_words(name, "tiny")
        erased = vocabulary.concept(made.concepts[0].word)
        assert made.concepts[0].synonyms == (erased.trained,)
        assert len(erased.held_out) >= 2
        held_out.assert_absent(erased.held_out, trained_prompts(made))

    def test_the_nearest_concept_is_never_trained_on(self, made_words, name: str) -> None:
        made = made_words(name, "tiny")
        near = vocabulary.concept(vocabulary.concept(made.concepts[0].word).near)
        held_out.assert_absent((near.name, *near.synonyms), trained_prompts(made))

    def test_most_of_the_world_is_left_to_measure_what_is_kept(self, made_words, name: str) -> None:
        trained = trained_prompts(made_words(name, "tiny"))
        rest = [
            thing for thing in vocabulary.THINGS if not any(holds(thing, text) for text in trained)
        ]
        assert len(rest) >= len(vocabulary.THINGS) / 2
        assert {c.name for c in vocabulary.ENTITIES} - {"soccer ball"} <= set(rest)

    def test_prompts_to_keep_are_many_and_all_different(self, made_words, name: str) -> None:
        kept = made_words(name, "tiny").preserve
        assert len(set(kept)) == len(kept) >= 120

    def test_no_template_of_the_evaluation_is_trained_on(self, made_words, name: str) -> None:
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
        # The template's own words around its slots: "an illustration showing", "drawn as".
        parts = {
            part.strip(" ,")
            for template in templates
            for part in re.split(r"\{\w?\}", template)
            if len(part.split()) > 1
        }
        assert "drawn as" in parts
        held_out.assert_absent(
            [*parts, *world.PEOPLE["eval"]], trained_prompts(made_words(name, "tiny"))
        )

    @pytest.mark.parametrize("pictures", [50, 200])
    def test_no_prompt_of_the_final_table_is_trained_on(
        self, made_words, name: str, pictures: int
    ) -> None:
        made = made_words(name, "tiny")
        probes = probes_for(made.concepts[0].word, pictures=pictures)
        check_held_out(probes, trained_prompts(made))


def test_the_tiny_default_is_what_flux_tiny_was_erased_with() -> None:
    made = settings_of("soccer", "tiny")
    assert (made.method.name, made.method.plus) == ("erase_anything", "embedder")
    assert (made.concept.anchor, made.concept.erase) == ("removed", "word_and_synonyms")
    assert (made.loss.keep, made.loss.lora) == (1.0, 0.0)
    assert (made.loss.eta, made.loss.t_draw) == (0.0, "sampler")
    assert (made.optim.lr_lower, made.optim.lr_upper) == (2e-3, 1e-3)
    assert (made.optim.pairs, made.data.inversions, made.data.slips) == (200, 4, 24)
    assert (made.embedder.keep, made.embedder.ridge, made.embedder.rank) == (1.0, 0.1, 32)
    assert made.data.pool == 4


def test_paper_is_the_default_at_full_size_with_the_papers_numbers() -> None:
    made = settings_of("nudity", "flux-dev")
    assert made.preset == "paper"
    assert (made.model.resolution, made.model.text_length, made.sample.steps) == (512, 256, 28)
    assert (made.optim.pairs, made.optim.batch) == (1000, 1)
    assert (made.optim.lr_lower, made.optim.lr_upper) == (1e-3, 5e-4)
    assert (made.loss.eta, made.loss.tau) == (1.0, 0.07)
    assert (made.lora.rank, made.lora.alpha, made.lora.scope) == (8, 8.0, "dual_qk")
    assert (made.optim.b1, made.optim.b2, made.optim.eps) == (0.9, 0.999, 1e-8)
    assert made.optim.weight_decay == 1e-5
    assert 6 <= made.data.pictures <= 10


def test_literal_prints_what_the_paper_prints() -> None:
    made = settings_of("nudity", "flux-dev+literal")
    assert (made.loss.esd, made.loss.attn, made.loss.lora, made.loss.rsc) == (1, 1, 1, 1)
    assert (made.loss.attn_form, made.loss.rsc_form) == ("sum", "printed")
    assert (made.data.shuffle, made.data.shuffle_probability) == ("word", 1.0)
    assert made.optim.optimisers == "two"


def test_release_does_what_the_released_code_does() -> None:
    made = settings_of("nudity", "flux-dev+release")
    assert (made.loss.esd, made.loss.attn, made.loss.lora, made.loss.rsc) == (1, 0.001, 0.1, 0.1)
    assert (made.loss.attn_form, made.loss.attn_blocks, made.loss.rsc_form) == (
        "release",
        "last",
        "release",
    )
    assert (made.loss.teacher, made.loss.teacher_guidance, made.model.guidance) == (
        "student",
        3.0,
        3.5,
    )
    assert (made.optim.optimisers, made.optim.lr_lower, made.optim.lr_upper) == ("one", 1e-3, 1e-3)
    assert 100 <= made.optim.pairs <= 150
    assert (made.data.shuffle, made.data.shuffle_probability) == ("word", 0.9)


def test_a_preset_leaves_model_and_words_alone() -> None:
    plain, changed = (config_of("kiss", v).to_dict() for v in ("tiny", "tiny+release"))
    for section in ("model", "sample", "mesh"):
        assert plain[section] == changed[section]
    # How the words are used, and how many tokens that takes.
    for key in ("anchor", "erase", "max_tokens"):
        plain["concept"].pop(key)
        changed["concept"].pop(key)
    assert plain["concept"] == changed["concept"]


@pytest.mark.parametrize("variant", ["flux", "tiny+papers", "tiny+"])
def test_an_unknown_variant_lists_those_there_are(variant: str) -> None:
    with pytest.raises(ValueError, match=r"is unknown; use one of \['(tiny|paper)'"):
        config_of("soccer", variant)
