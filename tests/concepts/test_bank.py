"""The prompt bank: rows, their variants and columns, draws, and the cache on disk."""

from __future__ import annotations

import dataclasses
import json
import logging

import ml_dtypes
import numpy as np
import pytest
from toy_t5 import t5_tokenizer

from ea_jax.concepts import bank, held_out, rows
from ea_jax.concepts.rows import Concept, Recipe
from ea_jax.flux.pipeline import Pipeline

LENGTH = 24
BALL = Concept(
    "soccer ball",
    ("a {} beside a dog", "a photo of a Soccer Ball"),
    ("football",),
    (("cloud", "grass"), ("shirt",), ("helmet",)),
)
NUDE = Concept("nude", ("a nude woman",))


class Encoder:
    """Encodes a prompt as its own letters, and counts its calls."""

    def __init__(self, length: int = LENGTH):
        self.length = length
        self.calls: list[list[str]] = []

    def __call__(self, prompts):
        self.calls.append(list(prompts))
        letters = np.array([sum(map(ord, prompt)) % 251 for prompt in prompts], np.float32)
        positions = np.arange(self.length, dtype=np.float32)
        t5_BTD = np.stack([letters[:, None] + 0 * positions, positions + 0 * letters[:, None]], -1)
        return t5_BTD, letters[:, None]


@pytest.fixture(scope="module")
def t5():
    return t5_tokenizer()


def build(t5, concepts=(BALL,), recipe=None, encode=None, **options) -> bank.PromptBank:
    return bank.build(
        list(concepts),
        recipe or Recipe(shuffles=8),
        encode=encode or Encoder(),
        tokenizer=t5,
        max_length=LENGTH,
        encoder="letters",
        **options,
    )


def marked(t5, made: bank.PromptBank, group: str, number: int) -> list[list[str]]:
    """The pieces that a group's columns point at, for each prompt of a row."""
    columns = made.columns(group, [number])
    first = number * len(columns.idx_BN)
    texts = made.texts(group)[first : first + len(columns.idx_BN)]
    out = []
    for text, idx_N, mask_N in zip(texts, columns.idx_BN, columns.mask_BN, strict=True):
        pieces = t5.convert_ids_to_tokens(t5(text)["input_ids"])
        out.append([pieces[i] for i in idx_N[mask_N]])
    return out


def test_a_synonym_takes_the_concept_s_place_in_as_many_rows(t5):
    both = rows.with_synonyms(BALL)
    assert rows.plain(both, "football") == ["a football beside a dog", "a photo of a football"]
    made = build(
        t5,
        concepts=[dataclasses.replace(both, neutral="cat")],
        recipe=Recipe(shuffles=8, anchor="replaced"),
    )
    assert len(made.rows(names=["word"])) == len(made.rows(names=["synonym"])) == 8
    assert made.texts("plain")[2:] == rows.plain(both, "football")
    anchors = made.texts("anchor")
    for number in made.rows(names=["synonym"]):
        (target,) = marked(t5, made, "target", number)
        assert "".join(target) == "▁football"
        assert "cat" in anchors[number]
        assert "football" not in anchors[number]
    # L_rsc is the word's alone.
    assert set(made.contrast_rows()) == set(made.rows(names=["word"]))


def test_slips_take_the_concept_s_place_in_rows_that_no_path_follows(t5):
    slips = ("soccre ball", "soccer bal")
    made = build(
        t5,
        concepts=[dataclasses.replace(BALL, slips=slips)],
        recipe=Recipe(shuffles=6, probability=0.0),
    )
    own = made.rows(names=["slip"])
    texts = [made.texts("target")[number] for number in own]
    assert texts[:2] == ["a soccre ball beside a dog", "a photo of a soccer bal"]
    assert [marked(t5, made, "target", number) for number in own[:1]] == [
        [t5.tokenize("soccre ball")]
    ]
    assert made.texts("anchor")[own[0]] == "beside a dog"
    assert not set(own) & {*made.rows(), *made.contrast_rows()}


def test_by_word_a_concept_comes_apart_and_its_words_are_marked(t5):
    made = build(t5, recipe=Recipe(shuffles=8, shuffle="word", probability=1.0))
    assert any("soccer ball" not in text.lower() for text in made.texts("target"))
    for number in made.rows():
        (target,) = marked(t5, made, "target", number)
        assert {piece.lower() for piece in target} == {"▁soccer", "▁ball"}


def test_columns_are_found_anew_in_every_variant(t5):
    made = build(t5)
    for number in made.contrast_rows():
        (target,) = marked(t5, made, "target", number)
        assert [piece.lower() for piece in target] == ["▁soccer", "▁ball"]
        football, irrelevant, shirt, helmet = marked(t5, made, "others", number)
        assert football == ["▁foot", "ball"]
        assert irrelevant in (["▁cloud"], ["▁grass"])
        assert (shirt, helmet) == (["▁shirt"], ["▁helmet"])
    assert not made.columns("anchor", made.rows()).mask_BN.any()


def test_every_distinct_prompt_is_encoded_once_in_batches_of_one_size(t5):
    encode = Encoder()
    made = build(t5, encode=encode, preserve=("a cat", "a cat on grass", "a cat"), batch=8)
    assert {len(call) for call in encode.calls} == {8}
    assert len(set(made.prompts)) == len(made.prompts)
    assert len(encode.calls) == -(-len(made.prompts) // 8)
    assert made.texts("preserve") == ["a cat", "a cat on grass", "a cat"]
    assert made.texts("empty") == [""]
    assert made.t5_UTD.dtype == made.pooled_UD.dtype == ml_dtypes.bfloat16


def test_text_of_a_group_is_that_of_its_prompts(t5):
    made = build(t5)
    text = made.text("others", [3, 1])
    assert text.t5_BTD.shape == (2 * 4, LENGTH, 2)
    prompts = [*made.texts("others")[3 * 4 : 4 * 4], *made.texts("others")[4:8]]
    wanted = Encoder()(prompts)[1].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(text.pooled_BD, wanted)


def test_a_concept_without_synonyms_has_no_contrast(t5):
    made = build(t5, concepts=(NUDE, BALL), recipe=Recipe(shuffles=4))
    assert made.rows().tolist() == list(range(8))
    assert made.rows(concept=0).tolist() == [0, 1, 2, 3]
    assert made.contrast_rows().tolist() == [4, 5, 6, 7]
    assert made.contrast_rows(concept=0).tolist() == []
    assert made.texts("plain") == ["a nude woman", *rows.plain(BALL)]
    assert made.plain(concept=1).tolist() == [1, 2]
    with pytest.raises(ValueError, match="row 2 has no synonym; draw from contrast_rows"):
        made.text("others", [2])
    with pytest.raises(ValueError, match="no rows to draw from"):
        bank.draw(made.contrast_rows(concept=0), 0)
    # Without any synonym at all, too.
    assert len(build(t5, concepts=(NUDE,)).texts("others")) == 0


def test_a_draw_is_a_function_of_seed_and_step():
    choices = np.array([5, 7, 9])
    drawn = [bank.draw(choices, 0, step) for step in range(60)]
    assert drawn == [bank.draw(choices, 0, step) for step in range(60)]
    assert set(drawn) == {5, 7, 9}
    assert drawn != [bank.draw(choices, 1, step) for step in range(60)]


def test_a_bank_is_a_function_of_its_inputs(t5):
    one, other = build(t5), build(t5)
    assert one.prompts == other.prompts
    assert build(t5, recipe=Recipe(shuffles=8, seed=1)).prompts != one.prompts


def test_a_cached_bank_needs_no_encoder_and_has_the_same_bits(t5, tmp_path):
    first, again = Encoder(), Encoder()
    one = build(t5, encode=first, cache=tmp_path)
    other = build(t5, encode=again, cache=tmp_path)
    assert first.calls
    assert not again.calls
    assert one.t5_UTD.tobytes() == other.t5_UTD.tobytes()
    assert one.pooled_UD.tobytes() == other.pooled_UD.tobytes()
    (file,) = tmp_path.iterdir()
    assert file.suffix == ".safetensors"


@pytest.mark.parametrize("change", ["prompts", "encoder", "length"])
def test_other_inputs_make_another_cache(t5, tmp_path, change):
    build(t5, cache=tmp_path)
    encode = Encoder(LENGTH - 1 if change == "length" else LENGTH)
    bank.build(
        [BALL],
        Recipe(shuffles=9 if change == "prompts" else 8),
        encode=encode,
        tokenizer=t5,
        max_length=encode.length,
        encoder="others" if change == "encoder" else "letters",
        cache=tmp_path,
    )
    assert encode.calls
    assert len(list(tmp_path.iterdir())) == 2


def _cut(data: bytes) -> bytes:
    return data[:-7]


def _flip(data: bytes) -> bytes:
    return data[:-7] + bytes([data[-7] ^ 1]) + data[-6:]


def _garbage(data: bytes) -> bytes:
    return b"<html>" * 20


def _wrong_header(data: bytes) -> bytes:
    head = json.dumps({"t5_UTD": {"shape": [1]}}).encode()
    return len(head).to_bytes(8, "little") + head


@pytest.mark.parametrize("damage", [_cut, _flip, _garbage, _wrong_header, lambda data: b""])
def test_a_damaged_cache_is_logged_and_made_anew(t5, tmp_path, caplog, damage):
    one = build(t5, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    encode = Encoder()
    with caplog.at_level(logging.WARNING):
        other = build(t5, encode=encode, cache=tmp_path)
    assert encode.calls
    assert "prompts again" in caplog.text
    assert other.t5_UTD.tobytes() == one.t5_UTD.tobytes()
    assert file.read_bytes() == whole


def test_an_encoder_of_another_length_is_an_error(t5):
    with pytest.raises(ValueError, match="encode and max_length have to agree"):
        build(t5, encode=Encoder(LENGTH - 1))


def test_anchors_and_kept_prompts_may_not_hold_the_concept(t5):
    with pytest.raises(
        ValueError, match=r"concept\.anchor_sentence 'a Nude cat' holds the concept"
    ):
        rows.rows([dataclasses.replace(NUDE, neutral="a Nude cat")], Recipe(anchor="sentence"))
    with pytest.raises(ValueError, match=r"needs a text; set concept\.neutral"):
        rows.rows([NUDE], Recipe(anchor="replaced"))
    with pytest.raises(ValueError, match=r"concept\.preserve_prompts 'a nude dog' holds"):
        build(t5, concepts=(NUDE,), preserve=("a cat", "a nude dog"))
    with pytest.raises(ValueError, match="no concept to erase"):
        rows.rows([], Recipe())


def test_held_out_words_may_not_meet_training():
    held_out.assert_disjoint(["naked", "a cat"], ["bare", "cat"])
    with pytest.raises(
        ValueError, match="synonyms used in training and in evaluation: 'Au  Naturel', 'b"
    ):
        held_out.assert_disjoint(
            ["bare", "au naturel"], ["bare", "Au  Naturel", "x"], what="synonyms"
        )


def test_held_out_words_may_not_stand_in_a_prompt_of_the_bank(t5):
    made = build(t5)
    held_out.assert_absent(["basketball", "foot"], made.prompts)
    with pytest.raises(ValueError, match="held-out word 'Football' is in training prompt"):
        held_out.assert_absent(["Football"], made.prompts)


def test_a_bank_holds_what_the_pipeline_encodes(dev_folder):
    pipe = Pipeline.load(dev_folder, parts=("text_encoder", "text_encoder_2"))

    def encode(prompts):
        text, _ = pipe.encode(prompts, max_length=LENGTH)
        return text.t5_BTD, text.pooled_BD

    made = bank.build(
        [Concept("cat", ("a {}",))],
        Recipe(shuffles=2),
        encode=encode,
        tokenizer=pipe.t5_tokenizer,
        max_length=LENGTH,
        encoder="random",
        batch=2,
    )
    # The random pipeline's tokens are letters: ▁ a ▁ c a t.
    assert made.columns("plain", [0]).idx_BN[0].tolist() == [2, 3, 4, 5, 0, 0, 0, 0]
    t5_BTD, pooled_BD = encode(["a cat", ""])
    text = made.text("plain", [0])
    np.testing.assert_array_equal(text.t5_BTD[0], np.asarray(t5_BTD)[0].astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(
        made.text("empty", [0]).pooled_BD[0], np.asarray(pooled_BD)[1].astype(ml_dtypes.bfloat16)
    )


def test_a_bank_takes_no_word_that_is_unknown_to_t5(t5):
    contrasted = Concept("cat", ("a cat on grass",), ("猫",), (("cloud",),))
    for concept in (contrasted, Concept("猫", ("a 猫 on grass",))):
        with pytest.raises(ValueError, match="T5 has no token for '猫'"):
            build(t5, [concept])
