"""What is made around a word: sentences, synonyms, prompts to keep, by the sources there are."""

from __future__ import annotations

import dataclasses
import logging

import made_words
import pytest
from places import FLUX_TOKENIZERS

from configs import anything
from ea_jax import settings
from ea_jax.concepts import choose, flux_lexicon, flux_phrases, forms, lists, rows, spans, wordnet
from ea_jax.concepts.endpoint import EndpointError
from ea_jax.evaluate import worlds
from ea_jax.flux.tokens import load_tokenizer, tokenize
from ea_jax.flux_tiny import task
from ea_jax.methods import prepare
from ea_jax.runtime.run_folder import write_json

ONE_OF_EACH = {kind: words.split(",")[0] for kind, words in made_words.WORDS.items()}


def run(word: str, variant: str = "flux-dev", **given) -> settings.Settings:
    config = anything.get_config(variant)
    key = "words" if "," in word else "word"
    config.concept[key] = word
    config.data.cache = None
    made = settings.from_config(config)
    return dataclasses.replace(made, concept=dataclasses.replace(made.concept, **given))


@pytest.fixture
def without_wordnet(monkeypatch):
    def absent():
        raise ValueError("WordNet is not in NLTK's data folders")

    monkeypatch.setattr(wordnet, "load", absent)


def made(word: str, variant: str = "flux-dev", **given) -> choose.Words:
    world = task.world() if variant.startswith("tiny") else worlds.open_world()
    return choose.words(run(word, variant, **given), world)


def test_the_page_of_words_shows_what_is_made() -> None:
    """Run `python tests/made_words.py` where a change is wanted, and read the page."""
    assert made_words.FILE.read_text(encoding="utf-8") == made_words.page()


@pytest.mark.parametrize("kind", made_words.WORDS)
def test_twenty_words_of_each_kind_have_sentences_that_hold_them(kind: str) -> None:
    words = [word.strip() for word in made_words.WORDS[kind].split(",")]
    assert len(words) == 20
    for word in words:
        found = made_words.made(word, kind)
        [one] = found.concepts
        assert len(set(one.prompts)) == len(one.prompts) == flux_phrases.COUNT, word
        for text in one.prompts:
            assert len(spans.occurrences(text, word)) == 1, (word, text)
        barred = forms.AnyOf((word, *found.record["words"][0]["near"], *one.synonyms))
        assert not [text for text in found.preserve if barred.first(text)]
        # A preposition is in many prompts: "on" in 51.
        assert len(found.preserve) >= 120, word
        assert not set(found.shown) & {*one.prompts, *found.preserve}


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_the_chain_from_a_word_to_tokens_runs_for_each_kind(kind: str) -> None:
    """With FLUX's own tokenizer: shuffled rows, anchors, contrast, columns of all of them."""
    if not FLUX_TOKENIZERS.is_dir():
        pytest.skip("no FLUX tokenizers in ../shared/data/flux_tokenizers")
    tokenizer = load_tokenizer(FLUX_TOKENIZERS, "tokenizer_2")
    given = run(ONE_OF_EACH[kind])
    found = made_words.made(ONE_OF_EACH[kind], kind)
    texts = prepare.prompts(given, prepare.with_names(given, found, tokenizer), tokenizer)
    for variants in filter(None, texts.groups.values()):
        prompts = [variant.text for variant in variants]
        tokens = tokenize(tokenizer, prompts, given.model.text_length)
        phrases = [variant.phrases for variant in variants]
        width = given.concept.max_tokens
        _, mask_BN = spans.columns(tokens, prompts, phrases, width=width)
        assert (mask_BN.any(-1) == [bool(variant.phrases) for variant in variants]).all()


def test_every_line_to_preserve_is_different_and_dressed() -> None:
    kept = lists.lines("preserve.txt")
    assert len(set(kept)) == len(kept) > 150


def test_every_section_has_all_that_a_run_takes() -> None:
    for name, found in flux_phrases.templates().items():
        assert len(found.sentences) >= flux_phrases.COUNT, name
        assert len(found.shown) == 1, name
        assert min(len(found.near), len(found.neutral), len(found.anchor)) >= 2, name
        assert len(set(found.sentences)) == len(found.sentences), name


def test_common_words_are_those_of_wordnet(wordnet_reader) -> None:
    listed = [line for line in lists.lines("common.txt") if line.startswith(("guitar|", "cat|"))]
    for line in listed:
        word, kinds, *_ = line.split("|")
        assert kinds.split(",") == wordnet.kinds(wordnet_reader, word)[:3]
    assert len(listed) == 2


@pytest.mark.usefixtures("without_wordnet")
class TestOnAFlux:
    def test_a_word_of_no_file_is_made_without_wordnet_and_that_is_said(self, caplog) -> None:
        found = made("trombone")
        [record] = found.record["words"]
        assert (record["kind"], record["kind_source"]) == ("thing", "package")
        assert "a photo of a trombone" in found.concepts[0].prompts
        assert "WordNet is not in" in found.record["missing"]["wordnet"]
        with caplog.at_level(logging.INFO):
            choose.report(found)
        assert "goes on without wordnet: WordNet is not in" in caplog.text

    def test_a_word_of_two_kinds_says_which_and_how_to_change_it(self, caplog) -> None:
        found = made("Apple")
        assert found.record["words"][0]["kind"] == "brand"
        with caplog.at_level(logging.INFO):
            choose.report(found)
        assert (
            "'Apple' is a brand (package), though it can be a thing: --config.concept.kind=th"
            in (caplog.text)
        )
        assert "a photo of an apple" in made("apple").concepts[0].prompts
        assert "a photo of an Apple" in made("Apple", kind="thing").concepts[0].prompts

    def test_synonyms_of_another_sense_are_not_taken(self) -> None:
        """Of "desert" WordNet's list has a verb."""
        assert made("desert").record["words"][0]["kind"] == "place"
        assert made("desert", kind="thing").concepts[0].synonyms == ()

    def test_an_unknown_word_says_what_to_give(self) -> None:
        with pytest.raises(ValueError, match=r"^no source knows 'xyzzy'.*concept\.kind=thing$"):
            made("xyzzy")
        assert made("xyzzy", kind="style").concepts[0].prompts

    def test_an_unknown_word_in_capitals_is_a_name(self, caplog) -> None:
        found = made("Zaphod Beeblebrox")
        assert found.record["words"][0]["kind"] == "person"
        with caplog.at_level(logging.INFO):
            choose.report(found)
        assert "as names are; else give --config.concept.kind" in caplog.text

    def test_a_phrase_is_what_its_last_word_is(self) -> None:
        [record] = made("spectacled bear").record["words"]
        assert (record["kind"], record["kind_source"]) == ("animal", "package: bear")

    @pytest.mark.parametrize(
        ("word", "text"),
        [
            ("cat", "a photo of a cat"),
            ("T-shirt", "a photo of a T-shirt"),
            ("GOLDEN RETRIEVER", "a photo of a GOLDEN RETRIEVER"),
            ("golden retriever", "a photo of a golden retriever"),
            ("Bruce Lee", "a photo of Bruce Lee"),
            ("Spider-Man", "a photo of Spider-Man"),
            ("shoes", "a photo of shoes"),
        ],
    )
    def test_hyphens_capitals_names_and_plurals_are_words(self, word: str, text: str) -> None:
        assert made(word).concepts[0].prompts[0] == text

    def test_an_emoji_wants_its_kind(self) -> None:
        with pytest.raises(ValueError, match="no source knows"):
            made("🐈")
        assert made("🐈", kind="animal").concepts[0].prompts[0] == "a photo of a 🐈"

    def test_a_word_inside_another_is_another(self) -> None:
        found = made("cat")
        assert not [text for text in found.preserve if forms.mentions(text, "cat")]
        assert made("caterpillar", kind="animal").preserve == tuple(lists.lines("preserve.txt"))

    def test_of_several_words_none_stands_in_what_the_others_keep(self) -> None:
        found = made("soccer ball,ball,kitty,cat")
        assert [one.word for one in found.concepts] == ["soccer ball", "ball", "kitty", "cat"]
        barred = forms.AnyOf(("ball", "kitty", "cat"))
        assert not [text for text in found.preserve if barred.first(text)]
        by_word = {one.word: one for one in found.concepts}
        # A synonym that is erased itself is contrasted with nothing.
        assert "kitty" not in by_word["cat"].synonyms
        for one in found.concepts:
            others = forms.AnyOf({"soccer ball", "ball", "kitty", "cat"} - {one.word, "ball"})
            assert not [text for text in one.prompts if others.first(text)]
        assert rows.rows(found.concepts, choose.recipe(run("cat,ball")))

    def test_a_word_in_two_forms_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"concept\.words holds 'cats', a form of 'cat'"):
            made("cat,cats")

    def test_an_endpoint_that_fails_is_done_without_and_that_is_said(self, monkeypatch) -> None:
        def ask(*_):
            raise EndpointError(
                "language model 'toy' at http://localhost:1/v1 failed: no connection"
            )

        monkeypatch.setattr("ea_jax.concepts.endpoint.ask", ask)
        there = {"endpoint": "http://localhost:1/v1", "endpoint_model": "toy"}
        found = made("hamster", **there)
        assert found.concepts[0].synonyms == ()
        assert "no connection" in found.record["missing"]["endpoint"]
        with pytest.raises(EndpointError, match="no connection"):
            made("hamster", synonym_source="endpoint", **there)

    def test_an_endpoint_is_asked_where_the_lists_have_no_synonym(self, monkeypatch) -> None:
        asked = []

        def ask(endpoint, prompt, parse):
            asked.append(prompt)
            return parse('["cricetine"]')

        monkeypatch.setattr("ea_jax.concepts.endpoint.ask", ask)
        there = {"endpoint": "http://localhost:1/v1", "endpoint_model": "toy"}
        assert made("hamster", **there).concepts[0].synonyms == ("cricetine",)
        assert made("cat", **there).concepts[0].synonyms == ("kitty",)
        assert len(asked) == 1

    def test_what_the_config_gives_takes_precedence(self) -> None:
        own = {
            "sentences": ("my cat",),
            "synonyms": ("moggy",),
            "preserve_prompts": ("a tree",),
            "no_relation": ("sky",),
            "far": ("sofa",),
            "mid": ("lynx",),
        }
        found = made("cat", **own)
        [one] = found.concepts
        assert (one.prompts, one.synonyms, found.preserve) == (("my cat",), ("moggy",), ("a tree",))
        assert one.irrelevant == (("sky",), ("sofa",), ("lynx",))

    def test_each_word_has_an_anchor_of_its_own(self) -> None:
        found = made("cat,Bruce Lee", anchor="replaced")
        assert [one.neutral for one in found.concepts] == ["stone", "a man"]
        found = made("cat,Paris", anchor="sentence")
        assert len({one.neutral for one in found.concepts}) == 2


@pytest.mark.usefixtures("wordnet_reader")
def test_wordnet_is_asked_where_it_is_installed() -> None:
    found = made("sousaphone")
    [record] = found.record["words"]
    assert record["kind"] == "thing"
    assert found.record["missing"] == {}
    assert "horn" in record["near"] or record["near"]


def test_words_are_the_same_from_their_file(tmp_path) -> None:
    found = prepare.with_names(run("cat,dog", "tiny"), made("cat,dog", "tiny"))
    assert [one.also for one in found.concepts] == [("kitty",), ("hound",)]
    assert all(len(one.slips) > 10 for one in found.concepts)
    assert found.record["slips"]["cat"] == list(found.concepts[0].slips)
    write_json(tmp_path / "words.json", found.as_json())
    again = choose.Words.of_json(tmp_path / "words.json")
    for name in ("concepts", "preserve", "near", "shown"):
        assert getattr(again, name) == getattr(found, name)
    (tmp_path / "words.json").write_text('{"concepts": [{}]}')
    with pytest.raises(ValueError, match=r"words\.json holds no words .*; delete it, and"):
        choose.Words.of_json(tmp_path / "words.json")


def test_a_name_in_its_own_case_goes_before_a_common_word() -> None:
    package = flux_lexicon.Package()
    assert package.kinds("Apple")[0] == "brand"
    assert package.kinds("apple")[0] == "thing"
    assert package.kinds("NIKE") == package.kinds("Nike")
    assert package.kinds("Tim Burtons") == ()
