"""Several edits side by side: same prompts and seeds, one sheet, how far each is from the base."""

from __future__ import annotations

import argparse
import json
import shutil

import numpy as np
import pytest
import tiny_runs
from PIL import Image

from ea_jax.exam import compare
from ea_jax.painter import Painter


@pytest.fixture(scope="module")
def run(tmp_path_factory, dev_folder):
    folder = tmp_path_factory.mktemp("runs") / "cat"
    return tiny_runs.save(folder, "cat", model=dev_folder)


@pytest.fixture
def asked(run, dev_folder, tmp_path):
    return [
        *tiny_runs.sampling(dev_folder, tmp_path, batch=2),
        f"--out={tmp_path / 'out'}",
        *(f"--edit=on={run}", f"--edit=off={run}@0", "--seed=3,4"),
    ]


def test_edits_are_compared_with_the_base_under_the_same_prompts_and_seeds(
    asked, tmp_path, monkeypatch
):
    compare.main([*asked, "--prompt=a cat", "--prompt=a dog"])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["task"] == "compare"
    assert results["command"].startswith("ea-jax evaluate compare --model=")
    assert results["protocol"]["prompts"] == ["a cat", "a dog"]
    assert results["protocol"]["seeds"] == [3, 4]
    assert results["protocol"]["edits"]["off"]["strength"] == 0
    # At strength 0 an edit is the base.
    assert results["difference"]["off"] == {"a cat": 0, "a dog": 0}
    assert min(results["difference"]["on"].values()) > 0
    table = (tmp_path / "out" / "results.md").read_text()
    assert f"| a cat | {results['difference']['on']['a cat']:.2f} | 0.00 |" in table
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        # Two rows of two seeds with three pictures each.
        assert sheet.width > 2 * sheet.height
    # Once more: every picture was kept.
    monkeypatch.setattr(Painter, "paint", None)
    compare.main([*asked, "--prompt=a cat", "--prompt=a dog"])


def test_another_prompt_needs_another_folder_and_one_prompt_comes_once(asked, tmp_path):
    compare.main([*asked, "--prompt=a cat"])
    with pytest.raises(SystemExit, match=r"holds a run with prompts"):
        compare.main([*asked, "--prompt=a dog"])
    with pytest.raises(SystemExit, match="'a dog' is given twice"):
        compare.main([*asked, "--prompt=a dog", "--prompt=a dog"])


def test_pictures_of_another_text_length_are_others(asked, tmp_path):
    found = []
    for name, length in (("long", 64), ("short", 16)):
        kept = [flag for flag in asked if not flag.startswith(("--out=", "--text_length="))]
        flags = [f"--out={tmp_path / name}", f"--text_length={length}", "--prompt=a cat"]
        compare.main([*kept, *flags])
        found.append(json.loads((tmp_path / name / "results.json").read_text()))
    assert [one["protocol"]["text_length"] for one in found] == [64, 16]
    assert found[0]["difference"]["on"] != found[1]["difference"]["on"]


@pytest.mark.parametrize(
    ("model", "texts", "said", "shown"),
    [
        ("FLUX", ["a cat"], None, "plain"),
        ("FLUX", ["a nude woman"], None, "pixelated"),
        ("FLUX", ["a nude woman"], "plain", "plain"),
        # Its people are wooden mannequins.
        ("flux-tiny", ["a nude woman"], None, "plain"),
    ],
)
def test_pictures_about_nudity_of_a_real_model_are_pixelated(model, texts, said, shown):
    given = argparse.Namespace(model=model, pictures=said)
    assert compare.how_shown(given, texts) == shown


def test_pixelated_pictures_have_flat_squares(asked, tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr(
        compare.record, "contact_sheet", lambda path, rows, columns: sheets.append(rows)
    )
    compare.main([*asked, "--prompt=a cat", "--pictures=pixelated"])
    [picture, *_] = sheets[0]["a cat"]
    np.testing.assert_array_equal(picture[:2, :2], np.broadcast_to(picture[0, 0], (2, 2, 3)))
    # Nor are they kept as they were.
    assert not list((tmp_path / "cache").glob("pictures-*"))
    shutil.rmtree(tmp_path / "out")
    compare.main([*asked, "--prompt=a dog", "--pictures=plain"])
    assert list((tmp_path / "cache").glob("pictures-*"))


def test_a_word_for_a_minor_beside_one_for_nudity_is_refused(asked):
    with pytest.raises(SystemExit, match="a word for a minor"):
        compare.main([*asked, "--prompt=a nude woman", "--prompt=a schoolgirl"])


def test_a_word_s_columns_zeroed_stand_beside_edits(asked, tmp_path):
    compare.main([*asked, "--edit=zeroed:cat", "--prompt=a cat", "--prompt=a dog"])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    found = results["difference"]["zeroed:cat"]
    assert found["a cat"] > 0
    assert found["a dog"] == 0
    said = results["protocol"]["edits"]["zeroed:cat"]
    assert (said["method"], said["digest"]) == ("zeroed_columns", "columns of cat zeroed")
