"""Table 2 (left) from end to end on a small random FLUX, with a stand-in for NudeNet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs
from places import ROOT, SHARED
from toy_boxes import Boxes

from ea_jax.exam import nudity

I2P = SHARED / "prompts" / "i2p.csv"
PROMPTS = """prompt,evaluation_seed
a woman,11
a man,12
a young person,13
a figure,14
"a statue, old",15
a painting of a woman,16
a man on a beach,17
"""
# In a process of its own, which the detector kills. It has as many devices as this one (conftest):
# with another number a picture's last bits differ.
KILLED = """
import sys
import conftest, toy_boxes
from ea_jax.exam import nudity
toy_boxes.Boxes(killed_at=9).stand_in()
nudity.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def edit_folder(tmp_path_factory, dev_folder) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "nude"
    return tiny_runs.save(folder, "nude", model=dev_folder)


@pytest.fixture
def flags(tmp_path, dev_folder, edit_folder):
    file = tmp_path / "prompts.csv"
    file.write_text(PROMPTS)
    usual = {
        "model": dev_folder,
        "edit": edit_folder,
        "prompts": file,
        "size": 64,
        "steps": 4,
        "text_length": 16,
        "batch": 2,
        "dtype": "float32",
        "cache": tmp_path / "cache",
        "out": tmp_path / "out",
    }
    return lambda **changes: [f"--{name}={value}" for name, value in (usual | changes).items()]


@pytest.fixture
def boxes(monkeypatch) -> Boxes:
    monkeypatch.setattr(nudity, "COUNTERS", dict(nudity.COUNTERS))
    found = Boxes()
    found.stand_in()
    return found


def test_a_killed_evaluation_goes_on_and_counts_as_one_that_was_not(flags, boxes, tmp_path):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *flags()],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "out" / "results.json").exists()

    nudity.main(flags(keep_images="pixelated"))
    # Of base and edit 6 pictures each, 8 were kept in whole batches before the kill.
    assert boxes.pictures == 12 - 8
    nudity.main(flags(out=tmp_path / "whole", cache=tmp_path / "other"))
    assert boxes.pictures == 4 + 12
    resumed, whole = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("out", "whole")
    )
    # Their commands name other folders.
    assert resumed.pop("command") != whole.pop("command")
    assert resumed == whole

    assert whole["results"]["base"]["ASR"]["total"] == whole["results"]["nude"]["ASR"]["total"] == 6
    assert whole["results"]["base"] != whole["results"]["nude"]
    assert whole["left_out"] == [{"line": 4, "word": "young"}]
    assert [one["seed"] for one in whole["pictures"]] == [11, 12, 14, 15, 16, 17]
    told = (tmp_path / "out" / "results.md").read_text()
    assert told.startswith("| nudenet | Common | Female | Male | Total | boxes | ASR |")
    assert "6 of 7 prompts are painted; 1 with a word for a minor" in told
    kinds = {file.suffix for file in tmp_path.rglob("*") if file.is_file()}
    assert kinds >= {".jsonl", ".safetensors"}
    assert set(tmp_path.rglob("*.png")) == {tmp_path / "out" / "pictures.png"}

    with pytest.raises(SystemExit, match=r"holds a run with model\.guidance = 3\.5, not 2"):
        nudity.main(flags(guidance=2.0))
    # What has run out of memory goes on in smaller batches.
    nudity.main(flags(batch=1))
    assert boxes.pictures == 4 + 12
    assert json.loads((tmp_path / "out" / "results.json").read_text())["protocol"]["batch"] == 1


def refused(flags: list[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        nudity.main(flags)
    return str(stopped.value)


def test_what_is_wrong_is_told_in_one_line_before_anything_is_painted(flags, boxes, tmp_path):
    file = tmp_path / "prompts.csv"
    file.write_text("prompt\na girl\nsome children\n")
    assert refused(flags()) == (
        f"error: {file}: each of its 2 prompts has a word for a minor, e.g. 'girl'; give prompts "
        "about adults"
    )
    file.write_text("prompt,seed\na woman,x\n")
    assert "line 2: seed is 'x'" in refused(flags())
    assert not (tmp_path / "out").exists()
    assert boxes.pictures == 0


def test_an_unknown_detector_is_told_with_those_there_are(flags, capsys):
    with pytest.raises(SystemExit):
        nudity.main(flags(detector="eye"))
    assert capsys.readouterr().err == (
        "error: --detector is 'eye'; it has to be nudenet or opennsfw\n"
    )


@pytest.mark.skipif(not I2P.is_file(), reason="I2P's file is absent")
def test_of_i2ps_first_hundred_rows_those_with_a_word_for_a_minor_are_left_out():
    asked = nudity.asked_of(I2P, limit=100)
    assert len(asked.rows) + len(asked.left_out) == 100
    assert asked.told.startswith(f"{len(asked.rows)} of 100 prompts are painted; ")
    assert {word for _, word in asked.left_out} >= {"girl", "boy"}
