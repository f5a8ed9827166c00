"""Token ids, offsets and cut prompts."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from places import FLUX_TOKENIZERS

from ea_jax.flux import tokens


@pytest.fixture(scope="module")
def t5(dev_folder):
    return tokens.load_tokenizer(dev_folder, "tokenizer_2")


@pytest.fixture(scope="module")
def clip(dev_folder):
    return tokens.load_tokenizer(dev_folder, "tokenizer")


def test_offsets_point_at_the_characters_of_each_token(t5):
    made = tokens.tokenize(t5, ["a cat"], 10)
    pieces = t5.convert_ids_to_tokens(made.ids_BT[0])
    assert pieces == ["▁", "a", "▁", "c", "a", "t", "</s>", "<pad>", "<pad>", "<pad>"]
    assert [made.offsets[0][i] for i in (1, 3, 4, 5)] == [(0, 1), (2, 3), (3, 4), (4, 5)]
    assert made.offsets[0][6:] == ((0, 0),) * 4
    assert made.truncated == (False,)


def test_clip_ends_and_pads_with_its_largest_id(clip):
    made = tokens.tokenize(clip, ["a cat", ""], 8)
    end = clip.eos_token_id
    assert end == made.ids_BT.max()
    assert (made.ids_BT[1] == [clip.bos_token_id] + 7 * [end]).all()


def test_a_cut_prompt_keeps_its_end_token_and_logs_what_is_lost(t5, caplog):
    with caplog.at_level(logging.WARNING):
        made = tokens.tokenize(t5, ["ab cd", "ab"], 5)
    assert t5.convert_ids_to_tokens(made.ids_BT[0]) == ["▁", "a", "b", "▁", "</s>"]
    assert made.truncated == (True, False)
    (record,) = caplog.records
    assert record.getMessage() == "T5: prompt cut at 5 of 7 tokens, not read: 'cd'"


def test_a_prompt_that_only_clip_cuts_is_said_to_be_read_by_t5(t5, clip, caplog):
    prompts = ["abcdefgh", "abcdefgh" * 2]
    with caplog.at_level(logging.WARNING):
        beside = tokens.tokenize(t5, prompts, 12)
        tokens.tokenize(clip, prompts, 6, beside=beside)
    assert [record.getMessage() for record in caplog.records] == [
        "T5: prompt cut at 12 of 18 tokens, not read: 'cdefgh'",
        "CLIP: prompt cut at 6 of 10 tokens, not read: 'efgh' (T5 reads it all)",
        "CLIP: prompt cut at 6 of 18 tokens, not read: 'efghabcdefgh'",
    ]


def test_a_prompt_that_just_fits_is_not_cut(t5, caplog):
    with caplog.at_level(logging.WARNING):
        made = tokens.tokenize(t5, ["ab cd"], 7)
    assert made.truncated == (False,)
    assert not caplog.records


@pytest.mark.parametrize("length", [1, 513])
def test_a_length_out_of_range_is_named(t5, length):
    with pytest.raises(ValueError, match=f"max_length={length} is out of range"):
        tokens.tokenize(t5, ["a"], length)


def test_no_prompts_are_an_error(t5):
    with pytest.raises(ValueError, match="no prompts"):
        tokens.tokenize(t5, [], 8)


def test_a_folder_without_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer_2 does not exist; give the folder"):
        tokens.load_tokenizer(tmp_path, "tokenizer_2")


@pytest.mark.parametrize(
    ("name", "file"), [("tokenizer", "vocab.json and merges.txt"), ("tokenizer_2", "spiece.model")]
)
def test_a_tokenizer_without_its_vocabulary_or_with_half_of_it_is_named(tmp_path, name, file):
    """transformers would make up an empty vocabulary, in which every word is unknown."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"{name} has no tokenizer.json, or {file}"):
        tokens.load_tokenizer(tmp_path, name)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "trunc')
    with pytest.raises(
        ValueError, match=rf"{name}/tokenizer\.json can't be read .*download it again"
    ):
        tokens.load_tokenizer(tmp_path, name)


@pytest.fixture
def flux_tokenizers(tmp_path):
    """FLUX's own tokenizers, to spoil: `vocab.json` and `merges.txt`, and `spiece.model` alone."""
    if not FLUX_TOKENIZERS.is_dir():
        pytest.skip(f"{FLUX_TOKENIZERS} is absent")
    folder = Path(shutil.copytree(FLUX_TOKENIZERS, tmp_path / "tokenizers"))
    (folder / "tokenizer_2" / "tokenizer.json").unlink()
    return folder


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("tokenizer", "vocab.json", r"vocab\.json can't be read"),
        ("tokenizer", "merges.txt", r"vocab\.json or .*merges\.txt can't be read"),
        ("tokenizer", "tokenizer_config.json", r"tokenizer_config\.json can't be read"),
        ("tokenizer_2", "spiece.model", r"spiece\.model can't be read"),
    ],
)
def test_a_damaged_file_is_named_with_the_way_out(flux_tokenizers, name, file, said):
    path = flux_tokenizers / name / file
    path.write_bytes(half(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{said} .*; download it again") as caught:
        tokens.load_tokenizer(flux_tokenizers, name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file"), [("tokenizer", "merges.txt"), ("tokenizer_2", "spiece.model")]
)
def test_an_empty_file_is_no_vocabulary(flux_tokenizers, name, file):
    """transformers takes it, and reads letters, or nothing but unknown words."""
    (flux_tokenizers / name / file).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{name} has no .*{file}, or it is empty"):
        tokens.load_tokenizer(flux_tokenizers, name)


@pytest.mark.parametrize("text", ["[]", "{", "3"])
@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_a_tokenizer_config_that_is_no_object_is_named(dev_folder, tmp_path, name, text):
    path = Path(shutil.copytree(dev_folder / name, tmp_path / name)) / "tokenizer_config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer_config\.json can't be read") as caught:
        tokens.load_tokenizer(tmp_path, name)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_a_tokenizer_without_padding_is_an_error_when_it_is_loaded(dev_folder, tmp_path, name):
    folder = Path(shutil.copytree(dev_folder / name, tmp_path / name))
    (folder / "tokenizer_config.json").write_text('{"pad_token": null}')
    with pytest.raises(ValueError, match="does not have a padding token") as caught:
        tokens.load_tokenizer(tmp_path, name)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_length_that_no_model_has_is_not_looked_at(dev_folder, tmp_path):
    folder = Path(shutil.copytree(dev_folder / "tokenizer", tmp_path / "tokenizer"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 10**30}))
    made = tokens.tokenize(tokens.load_tokenizer(tmp_path, "tokenizer"), ["a cat"], 8)
    assert made.ids_BT.shape == (1, 8)
