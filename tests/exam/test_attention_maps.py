"""Where pictures look for a word: maps by groups of blocks, and pictures without its columns."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_runs
from PIL import Image

from ea_jax.exam import attention


@pytest.fixture(scope="module")
def run(tmp_path_factory, dev_folder):
    folder = tmp_path_factory.mktemp("runs") / "cat"
    return tiny_runs.save(folder, "cat", model=dev_folder)


@pytest.fixture
def asked(run, dev_folder, tmp_path):
    return [
        *tiny_runs.sampling(dev_folder, tmp_path, batch=1),
        f"--out={tmp_path / 'out'}",
        *(f"--edit=on={run}", f"--edit=off={run}@0", "--seed=3"),
    ]


def test_blocks_fall_into_at_most_four_groups_of_neighbours():
    maps_LHW = np.arange(19.0)[:, None, None] * np.ones((1, 2, 3))
    found = attention.groups_of(maps_LHW)
    assert {name: one[0, 0] for name, one in found.items()} == {
        "blocks 1-5": 2,
        "blocks 6-10": 7,
        "blocks 11-15": 12,
        "blocks 16-19": 16.5,
    }
    assert list(attention.groups_of(maps_LHW[:2])) == ["block 1", "block 2"]


def test_maps_of_an_edit_stand_beside_the_base_s_and_its_picture_without_the_word(
    asked, tmp_path, monkeypatch
):
    drawn = []
    draw = attention.report.attention_rows
    monkeypatch.setattr(
        attention.report,
        "attention_rows",
        lambda path, pictures, maps, **how: (
            drawn.append((pictures, maps)) or draw(path, pictures, maps, **how)
        ),
    )
    attention.main([*asked, "--prompt=a cat"])
    [(pictures, maps)] = drawn
    assert list(pictures) == ["base", "on", "off", "base, columns zeroed"]
    assert list(maps) == ["base", "on", "off"]
    # At strength 0 an edit is the base.
    np.testing.assert_array_equal(pictures["off"], pictures["base"])
    assert np.abs(pictures["base, columns zeroed"] - pictures["base"]).max() > 1e-3
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["protocol"]["word"] == "cat"
    assert results["command"].startswith("ea-jax evaluate attention --model=")
    shares = results["share"]["a cat"]
    assert shares["off"] == shares["base"] != shares["on"]
    for group, share in shares["base"].items():
        assert share == pytest.approx(maps["base"][group].mean(), abs=1e-6)
        # Random weights look everywhere alike: at 3 of 16 text and 4 image tokens.
        assert 0.02 < share < 0.5
    with Image.open(tmp_path / "out" / "prompt-1.png") as drawn_maps:
        # Four rows: a picture, and beside it a map of each group of blocks.
        assert drawn_maps.height > drawn_maps.width / len(maps["base"])


def test_another_words_columns_zeroed_leave_the_word_to_be_looked_at(asked, tmp_path):
    flags = ["--edit=zeroed:cat", "--edit=zeroed:dog", "--word=cat", "--prompt=a cat, a dog"]
    attention.main([*asked, *flags])
    shares = json.loads((tmp_path / "out" / "results.json").read_text())["share"]["a cat, a dog"]
    assert max(shares["zeroed:cat"].values()) == 0
    assert min(shares["zeroed:dog"].values()) > 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--prompt=a dog"], "'cat' is not in prompt 'a dog'; give a prompt with that word"),
        (["--prompt=a dog", "--word=bird"], "'bird' is not in prompt"),
        (["--prompt=a nude boy", "--word=nude"], "a word for a minor"),
    ],
)
def test_a_prompt_that_will_not_do_is_refused_before_anything_is_loaded(
    flags, said, asked, tmp_path
):
    with pytest.raises(SystemExit, match=said):
        attention.main([*asked, *flags])
    assert not (tmp_path / "out").exists()
