"""The classifier of people: what it learns, what it reads, its files."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import numpy as np
import optax
import pytest
from PIL import Image

from ea_jax.detectors import mobilenet, train_celebrity
from ea_jax.detectors.celebrity import Classifier
from ea_jax.detectors.mobilenet import MobileNetConfig
from ea_jax.detectors.pixels import Pixels
from ea_jax.detectors.train_celebrity import Training

SMALL = MobileNetConfig(
    image_size=32,
    depth_multiplier=0.25,
    min_depth=4,
    depth_divisible_by=4,
    finegrained_output=False,
)
NAMES = ("Ada", "Grace", "Zoë")


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """Two blocks of the sixteen: as much to learn with, and compiled in a tenth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobilenet, "_CHANNELS", (16, 24, 24))
        patch.setattr(mobilenet, "_STRIDES", (2, 1))
        mobilenet._graphs.cache_clear()
        yield
    mobilenet._graphs.cache_clear()


def portraits(folder, *, count=6, names=NAMES):
    """Three people who differ in colour alone, in pictures of several sizes and kinds."""
    rng = np.random.default_rng(0)
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 8, (32 + number, 40, 3), dtype=np.uint8)
            pixels[..., index] += 220
            suffix = "png" if number % 2 else "jpg"
            Image.fromarray(pixels).save(folder / name / f"{number}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return portraits(tmp_path_factory.mktemp("faces") / "faces")


@pytest.fixture(scope="module")
def trained(faces):
    """At a higher rate than the paper's: from random weights, in a few steps."""
    training = Training(epochs=80, batch=15, learning_rate=1e-3)
    return train_celebrity.train(faces, training, config=SMALL)


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "out"
    trained[0].save(folder, trained[1])
    return folder


def test_a_few_portraits_are_learnt_and_those_kept_apart_are_told_by_name(trained, faces):
    classifier, record = trained
    assert record["pictures"] == {"train": 15, "test": 3}
    assert (record["test"]["hits"], record["test"]["total"]) == (3, 3)
    images = np.random.default_rng(1).uniform(0, 0.03, (2, 50, 70, 3))
    images[0, ..., 2] += 0.86
    images[1, ..., 0] += 0.86
    found = classifier(images, ["whoever", "was asked for"])
    assert [reading.seen for reading in found] == [{("celebrity", "Zoë")}, {("celebrity", "Ada")}]
    assert all(1 / 3 < reading.scores["confidence"] <= 1 for reading in found)
    assert all(reading.valid for reading in found)


def test_a_draft_that_a_kill_left_is_no_picture(faces, tmp_path):
    folder = shutil.copytree(faces, tmp_path / "faces")
    name = next(folder.iterdir())
    (name / ".000.png-1f.png").write_bytes(b"half a pic")
    found, before = (
        train_celebrity.read(at, Pixels(32, 32, (0.5,) * 3, (0.5,) * 3)).labels_P
        for at in (folder, faces)
    )
    np.testing.assert_array_equal(found, before)


def test_the_same_seed_trains_the_same_classifier(faces):
    training = Training(epochs=2, batch=15)
    first, again, other = (
        train_celebrity.train(faces, how, config=SMALL)[0].version
        for how in (training, training, dataclasses.replace(training, seed=1))
    )
    assert first == again != other


def test_a_step_moves_every_weight_and_every_running_average():
    """Adam's first step is as long as its rate; what stands still has no gradient."""
    fresh = mobilenet.init_weights(SMALL, 3, jax.random.key(0))
    moved, _, _ = train_celebrity._step(
        fresh,
        optax.scale_by_adam().init(fresh),
        np.random.default_rng(0).uniform(-1, 1, (15, 32, 32, 3)).astype(np.float32),
        np.arange(15) % 3,
        config=SMALL,
        learning_rate=1e-4,
    )
    still = [
        jax.tree_util.keystr(path)
        for path, change in jax.tree.leaves_with_path(
            jax.tree.map(lambda a, b: float(abs(a - b).max()), fresh, moved)
        )
        if change == 0
    ]
    assert not still


def test_a_saved_classifier_is_loaded_the_same(trained, saved):
    loaded = Classifier.load(saved)
    assert (loaded.names, loaded.version) == (NAMES, trained[0].version)
    assert json.loads((saved / "training.json").read_text())["test"]["total"] == 3
    assert Classifier(loaded.weights, SMALL, ("Ada", "Zoë", "Grace")).version != loaded.version


def test_training_goes_on_from_a_base_without_its_last_layer(trained, saved, faces):
    weights, config = train_celebrity._start(saved, None)
    assert config == SMALL
    assert {*trained[0].weights} - {*weights} == {"classifier"}
    jax.tree.map(np.testing.assert_array_equal, weights, without_classifier(trained[0].weights))
    _, record = train_celebrity.train(faces, Training(epochs=1, batch=15), base=saved)
    assert record["base"] == str(saved)
    with pytest.raises(ValueError, match="give either a base or a config"):
        train_celebrity.train(faces, Training(), base=saved, config=SMALL)


def without_classifier(weights):
    return {name: part for name, part in weights.items() if name != "classifier"}


def test_every_name_has_pictures_on_both_sides_of_the_split():
    labels = np.repeat([0, 1, 2], [50, 5, 2])
    trained, tested = train_celebrity.split(labels, Training())
    assert sorted([*trained, *tested]) == list(range(57))
    assert np.bincount(labels[tested]).tolist() == [10, 1, 1]


def test_a_picture_is_moved_by_no_more_than_its_share_and_its_edges_are_drawn_out():
    image = np.zeros((8, 8, 3), np.uint8)
    image[3, 4] = 255
    images = np.repeat(image[None], 50, 0)
    rng = np.random.default_rng(0)
    assert train_celebrity.shifted(images, 0.0, rng) is images
    rows, columns = np.nonzero(train_celebrity.shifted(images, 0.25, rng)[..., 0])[1:]
    assert {*rows} == {1, 2, 3, 4, 5}
    assert {*columns} == {2, 3, 4, 5, 6}
    image[0] = 9
    moved = train_celebrity.shifted(image[None], 0.5, np.random.default_rng(1))
    assert {*np.unique(moved)} <= {0, 9, 255}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda at: at.rename(at.parent / "other"), "faces is no folder; give one with a subf"),
        (lambda at: (at / "Ada").rename(at.parent / "Ada"), "faces has 1 subfolders; a class"),
        (lambda at: (at / "Ada" / "1.png").unlink(), "Ada holds 1 pictures; two are needed"),
        (lambda at: (at / "Ada" / "1.png").write_text("no"), r"1\.png can't be read"),
    ],
)
def test_pictures_that_cannot_be_learnt_from_are_one_line(tmp_path, spoil, said):
    folder = portraits(tmp_path / "faces", count=2, names=("Ada", "Grace"))
    spoil(folder)
    with pytest.raises(ValueError, match=said):
        train_celebrity.read(folder, SMALL.pixels)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model_type", "clip", "type 'clip', not 'mobilenet_v2'; give the folder of a MobileNetV2"),
        ("id2label", None, "'id2label' is null, not an object"),
        ("id2label", {"0": "Ada", "2": "Zoë"}, "id2label lacks '1'"),
        ("id2label", {"0": "Ada", "1": "Zoë"}, r"shape \[3\] in .*, config.json asks for \[2\]"),
        ("tf_padding", False, "tf_padding=False is not supported; MobileNetV2 has True"),
        ("depth_multiplier", 0, "mobilenet.depth_multiplier = 0 is out of range"),
    ],
)
def test_a_folder_of_another_model_is_one_line(saved, tmp_path, key, value, said):
    config = json.loads((saved / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=said):
        Classifier.load(tmp_path)
