"""Positions of a concept: in characters, then in tokens."""

from __future__ import annotations

import re

import numpy as np
import pytest
from places import FLUX_TOKENIZERS
from toy_t5 import t5_tokenizer

from ea_jax.concepts import spans
from ea_jax.flux import tokens

# Letters of double width, which Unicode holds to be the same letters.
WIDE = "".join(chr(ord(letter) + 0xFEE0) for letter in "NUDE")


@pytest.fixture(scope="module")
def t5():
    return t5_tokenizer()


@pytest.fixture(scope="module")
def flux_t5():
    if not FLUX_TOKENIZERS.is_dir():
        pytest.skip("no FLUX tokenizer in ../shared/data/flux_tokenizers")
    return tokens.load_tokenizer(FLUX_TOKENIZERS, "tokenizer_2")


def found(text: str, phrase: str) -> list[str]:
    return [text[start:end] for start, end in spans.occurrences(text, phrase)]


def pieces(tokenizer, prompt: str, phrase: str, max_length: int = 32) -> list[str]:
    idx_N, mask_N = spans.locate(tokenizer, prompt, phrase, max_length=max_length)
    ids_BT = tokens.tokenize(tokenizer, [prompt], max_length).ids_BT
    return tokenizer.convert_ids_to_tokens(ids_BT[0][idx_N[mask_N]])


def test_every_occurrence_is_found_whatever_its_case():
    text = "Nude art: a nude woman, NUDE."
    assert spans.occurrences(text, "nude") == [(0, 4), (12, 16), (24, 28)]


def test_a_concept_ends_at_word_borders():
    assert found("basketball, football; ball-game", "ball") == ["ball"]
    assert found("a denuded hill", "nude") == []


def test_a_phrase_may_be_spread_over_spaces_and_lines():
    assert found("a soccer \n ball", "soccer ball") == ["soccer \n ball"]
    assert found("a soccer ball", " Soccer  Ball ") == ["soccer ball"]


@pytest.mark.parametrize(
    ("text", "phrase", "there"),
    [
        ("a CAFE\u0301 here", "café", "CAFE\u0301"),
        ("the caf\u00e9 here", "cafe\u0301", "caf\u00e9"),
        ("an old STRASSE now", "Straße", "STRASSE"),
        (f"{WIDE} woman", "nude", WIDE),
        ("İstanbul nude", "nude", "nude"),
        ("x 裸体 y", "裸体", "裸体"),
        ("C++ (c++) c", "C++", "C++"),
    ],
)
def test_letters_are_compared_as_unicode_means_them(text, phrase, there):
    assert found(text, phrase)[0] == there


@pytest.mark.parametrize(
    ("text", "phrase", "there"),
    [
        ("一只猫在草地上", "猫", ["猫"]),
        ("ネコと犬", "ネコ", ["ネコ"]),
        ("ﾈｺと犬", "ネコ", ["ﾈｺ"]),
        ("ネコバス", "ネコ", []),
        ("コーヒーを", "コーヒ", []),
        ("แมวนั่งอยู่", "แมว", ["แมว"]),
        ("一只cat在", "cat", ["cat"]),
        ("कीड़ा", "क", []),
        ("कीड़ा", "ड़ा", []),
    ],
)
def test_words_of_scripts_without_spaces_have_unicode_s_borders(text, phrase, there):
    assert found(text, phrase) == there


@pytest.mark.parametrize(
    ("text", "phrase", "there"),
    [
        ("a \u2764\ufe0f b", "\u2764", ["\u2764\ufe0f"]),
        ("a \u2764 b", "\u2764\ufe0f", ["\u2764"]),
        ("a 👩\u200d🚀", "👩", []),
        ("a 👩\u200d🚀", "🚀", []),
        ("a 👩🚀", "👩\u200d🚀", []),
        ("a 👩\u200d🚀 b", "👩\u200d🚀", ["👩\u200d🚀"]),
        ("👩🏽", "👩", []),
        ("🇩🇪🇫🇷", "🇫🇷", ["🇫🇷"]),
        ("🇩🇪🇫🇷", "🇪🇫", []),
        ("1\ufe0f\u20e3", "1", []),
    ],
)
def test_a_part_of_an_emoji_is_not_the_emoji(text, phrase, there):
    assert found(text, phrase) == there


@pytest.mark.parametrize("unseen", ["\u00ad", "\u200b", "\u200d", "\u2060", "\ufeff", "\ufe0f"])
def test_what_nobody_sees_does_not_hide_a_word_nor_shift_it(unseen):
    assert spans.occurrences(f"a n{unseen}ude man, nude", "nude") == [(2, 7), (13, 17)]


def test_a_concept_of_several_words_is_searched_from_every_start():
    assert spans.occurrences("xa a a", "a a") == [(3, 6)]
    assert found("cat-like, can't", "cat") == ["cat"]


@pytest.mark.parametrize("tokenizer", ["t5", "flux_t5"])
@pytest.mark.parametrize("word", ["猫", "❤\ufe0f", "👩\u200d🚀", "裸体 猫"])
def test_a_word_without_a_token_of_its_own_is_an_error(tokenizer, word, request):
    said = f"T5 has no token for {word!r}: it reads <unk>"
    with pytest.raises(ValueError, match=re.escape(said)):
        spans.require_known(request.getfixturevalue(tokenizer), word)


@pytest.mark.parametrize("tokenizer", ["t5", "flux_t5"])
def test_a_part_without_a_token_is_named(tokenizer, request, caplog):
    t5 = request.getfixturevalue(tokenizer)
    spans.require_known(t5, "nude cat")
    assert not caplog.records
    spans.require_known(t5, "nude猫")
    assert caplog.messages == ["T5 has no token for '猫' in 'nude猫' and reads <unk> there"]


def test_punctuation_in_a_concept_is_no_pattern():
    assert found("a.b axb", "a.b") == ["a.b"]


def test_a_concept_of_two_pieces_has_two_columns(t5):
    # ▁a ▁nu de ▁woman </s>
    idx_N, mask_N = spans.locate(t5, "a nude woman", "nude", max_length=16, width=4)
    assert idx_N.tolist() == [1, 2, 0, 0]
    assert mask_N.tolist() == [True, True, False, False]
    assert idx_N.dtype == np.int32


def test_all_occurrences_have_columns_in_order(t5):
    # ▁nu de ▁woman ▁a ▁nu de </s>
    idx_N, mask_N = spans.locate(t5, "nude woman a nude", "nude", max_length=16)
    assert idx_N[mask_N].tolist() == [0, 1, 4, 5]


def test_neighbours_and_punctuation_are_left_out(t5):
    assert pieces(t5, "a soccer ball, Van Gogh's", "soccer ball") == ["▁soccer", "▁ball"]
    assert pieces(t5, "a soccer ball, Van Gogh's", "van gogh") == ["▁Van", "▁Go", "gh"]


def test_characters_outside_ascii_do_not_shift_positions(t5):
    assert pieces(t5, "é straße nude 裸 nude", "nude") == ["▁nu", "de", "▁nu", "de"]


def test_columns_of_a_batch_have_one_width(t5):
    prompts = ["a nude woman", "a soccer ball", "a cat"]
    made = tokens.tokenize(t5, prompts, 16)
    idx_BN, mask_BN = spans.columns(made, prompts, [["nude"], ["soccer", "ball"], []], width=3)
    assert idx_BN.tolist() == [[1, 2, 0], [1, 2, 0], [0, 0, 0]]
    assert mask_BN.sum(1).tolist() == [2, 2, 0]


def test_a_concept_that_is_not_there_is_named_with_the_prompt(t5):
    text = "concept 'nude' is not in prompt 'a woman'; add it, or set concept.word"
    with pytest.raises(ValueError, match=text):
        spans.locate(t5, "a woman", "nude", max_length=16)


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_an_empty_concept_is_an_error(t5, empty):
    with pytest.raises(ValueError, match=r"is empty; set concept\.word"):
        spans.locate(t5, "a woman", empty, max_length=16)


@pytest.mark.parametrize("max_length", [3, 4])
def test_a_concept_that_is_cut_names_the_maximum(t5, max_length):
    # ▁a ▁cat ▁nu de </s>: cut before the concept, or in its middle.
    with pytest.raises(ValueError, match=f"'nude' is cut off .* than {max_length} tokens"):
        spans.locate(t5, "a cat nude", "nude", max_length=max_length)


def test_a_prompt_cut_behind_the_concept_is_fine(t5):
    idx_N, mask_N = spans.locate(t5, "a nude woman with hair", "nude", max_length=5)
    assert idx_N[mask_N].tolist() == [1, 2]


def test_more_tokens_than_the_width_name_the_setting(t5):
    with pytest.raises(ValueError, match=r"4 tokens .* the 3 that are kept; raise concept\.max_to"):
        spans.locate(t5, "nude nude", "nude", max_length=16, width=3)


@pytest.mark.parametrize(
    ("prompt", "phrase", "expected"),
    [
        ("a nude woman with beautiful hair", "nude", ["▁nu", "de"]),
        ("hair nude, a Nude", "nude", ["▁nu", "de", "▁Nu", "de"]),
        ("a soccer ball on grass", "Soccer Ball", ["▁soccer", "▁ball"]),
        ("Van Gogh's café", "van gogh", ["▁Van", "▁Go", "g", "h"]),
        (f"an e\u0301lan in a {WIDE} study", "nude", ["▁NU", "DE"]),
    ],
)
def test_spans_hold_with_flux_own_tokenizer(flux_t5, prompt, phrase, expected):
    assert pieces(flux_t5, prompt, phrase) == expected


def test_a_phrase_fits_if_t5_knows_its_letters_and_makes_few_tokens_of_it():
    t5 = t5_tokenizer()
    count = len(t5("soccer ball", add_special_tokens=False)["input_ids"])
    assert spans.fits(t5, "soccer ball", width=count)
    assert not spans.fits(t5, "soccer ball", width=count - 1)
    assert not spans.fits(t5, "s\u0456ccer", width=99)
