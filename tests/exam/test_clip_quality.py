"""Table 2 (right): CLIP's score and FID on a small random FLUX, with a stand-in for Inception."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import toy_weights
from PIL import Image

from ea_jax import edits, lora
from ea_jax.detectors.fid import Inception
from ea_jax.edits import Edit
from ea_jax.exam import clip_quality, quality
from ea_jax.exam.distances import beside, frechet
from ea_jax.flux.pipeline import Pipeline

CAPTIONS = "a bus\na dog on a bench\ntwo children\na red kite\na bowl of soup\n"


class Eye:
    """Mean and spread of each colour; stops the program at its picture `stopped_at`."""

    name, version = "inception", "toy"

    def __init__(self, stopped_at: int | None = None) -> None:
        self.stopped_at, self.pictures = stopped_at, 0

    def features(self, images_BHWC):
        self.pictures += len(images_BHWC)
        if self.stopped_at is not None and self.pictures >= self.stopped_at:
            raise KeyboardInterrupt
        return np.concatenate([images_BHWC.mean((1, 2)), images_BHWC.std((1, 2))], -1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, dev_folder):
    random_clip = pytest.importorskip("random_clip", reason="needs torch")
    top = tmp_path_factory.mktemp("quality")
    random_clip.save(random_clip.build(), top / "clip")
    fresh = lora.init(
        *(jax.random.key(0), Pipeline.load(dev_folder).template("transformer")),
        scope="dual_qk",
        rank=2,
    )
    edits.save(Edit(toy_weights.random_like(fresh), concept="cat"), top / "cat")
    (top / "coco").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 255, (40 + i, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(top / "coco" / f"{i}.jpg")
    return top


@pytest.fixture
def flags(tmp_path, dev_folder, folders):
    captions = tmp_path / "captions.txt"
    captions.write_text(CAPTIONS)
    usual = {
        "model": dev_folder,
        "edit": folders / "cat",
        "prompts": captions,
        "clip": folders / "clip",
        "reference": folders / "coco",
        "size": 32,
        "steps": 1,
        "text_length": 16,
        "batch": 2,
        "dtype": "float32",
        "cache": tmp_path / "cache",
        "out": tmp_path / "out",
    }
    return lambda **changes: [
        f"--{name}={value}" for name, value in (usual | changes).items() if value is not None
    ]


def test_a_stopped_evaluation_goes_on_and_its_pictures_are_painted_once(
    flags, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(clip_quality, "PART", 2)
    eye = Eye(stopped_at=3 + 4)
    monkeypatch.setattr(Inception, "load", lambda weights: eye)
    with pytest.raises(SystemExit):
        quality.main(flags())
    assert not (tmp_path / "out" / "results.json").exists()
    # Kept: the 3 of the reference, in parts of two, and the first two of the base.
    eye.stopped_at, eye.pictures = None, 0
    quality.main(flags())
    assert eye.pictures == 2 * 4 - 2
    first = json.loads((tmp_path / "out" / "results.json").read_text())
    quality.main(flags())
    assert eye.pictures == 2 * 4 - 2
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == first

    assert set(first["quality"]) == {"base", "cat"}
    base, edit = first["quality"]["base"], first["quality"]["cat"]
    assert base["score"]["low"] == base["score"]["high"] == 0
    assert base["score"]["value"] == pytest.approx(np.mean(first["scores"]["base"]), abs=1e-3)
    assert edit["FID"] != base["FID"] > 0
    assert [prompt for prompt, _ in first["prompts"]] == [
        *("a bus", "a dog on a bench", "a red kite", "a bowl of soup")
    ]
    assert first["left_out"] == [{"line": 3, "word": "children"}]
    told = (tmp_path / "out" / "results.md").read_text()
    assert "4 of 5 prompts are painted; 1 with a word for a minor" in told
    assert "FID of 4 pictures and 3 others, fewer than 2,048, is too high" in told
    assert told in capsys.readouterr().out
    assert {file.name for file in tmp_path.rglob("*.png")} == {"pictures.png"}


def test_without_a_reference_fid_is_left_out_and_said_so(flags, tmp_path):
    quality.main(flags(reference=None, edit=None, pictures=2))
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(found["quality"]["base"]) == {"score"}
    assert len(found["prompts"]) == 2
    told = (tmp_path / "out" / "results.md").read_text()
    assert "| base | " in told
    assert "FID is left out: it needs --reference" in told


def test_zeroed_columns_are_measured_like_any_edit(flags, tmp_path):
    quality.main(flags(edit="zeroed:bus", reference=None, pictures=2))
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(found["quality"]) == {"base", "zeroed:bus"}
    base, zeroed = (found["scores"][name] for name in ("base", "zeroed:bus"))
    assert base[0] != zeroed[0]  # of "a bus"
    assert base[1] == pytest.approx(zeroed[1], abs=1e-6)


def test_what_is_missing_is_told_before_anything_is_painted(flags, tmp_path, folders, capsys):
    with pytest.raises(SystemExit, match="comes with no judge; give --prompts, a file of captions"):
        quality.main(flags(prompts=None, clip=None, reference=None))
    with pytest.raises(SystemExit, match="coco/none is no folder; give one of PNG or JPEG"):
        quality.main(flags(reference=folders / "coco" / "none"))
    with pytest.raises(SystemExit):
        quality.main(flags(clip=None))
    assert "--prompts has no effect without --clip" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_distance_is_the_same_whether_pictures_or_features_are_more():
    """The factors are as tall as the fewer of both; the distance has to be that of all."""
    rng = np.random.default_rng(0)
    one_PF, other_PF = rng.normal(size=(30, 4)), 1 + rng.normal(size=(3, 4))
    padded = [np.concatenate([x_PF, np.zeros((len(x_PF), 60))], -1) for x_PF in (one_PF, other_PF)]
    assert frechet(one_PF, other_PF) == pytest.approx(frechet(*padded))


def test_a_difference_to_the_base_has_an_interval_of_the_same_pictures():
    base_P = np.arange(50.0)
    mean = lambda seen_P, rows: float(seen_P[rows].mean())  # noqa: E731
    found = beside(mean, base_P + 2, base_P, 50)
    assert found == {"value": 26.5, "low": 2.0, "high": 2.0}
    spread = beside(mean, base_P[::-1], base_P, 50)
    assert spread["low"] < 0 < spread["high"]
