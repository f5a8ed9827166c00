"""The classifier of people: its network against transformers, its training, its files."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import random_flux
import torch
import transformers
from PIL import Image

from ea_jax.detectors import mobilenet, train_celebrity
from ea_jax.detectors.celebrity import Classifier
from ea_jax.detectors.mobilenet import MobileNetConfig
from ea_jax.detectors.train_celebrity import Training

SMALL = MobileNetConfig(image_size=32, depth_multiplier=0.25, min_depth=4, depth_divisible_by=4)
NAMES = ("Ada", "Grace", "Zoë")


def portraits(folder, *, count=6, names=NAMES):
    """Three people who differ in colour alone, in pictures of several sizes and kinds."""
    rng = np.random.default_rng(0)
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 60, (32 + number, 40, 3), dtype=np.uint8)
            pixels[..., index] += 180
            suffix = "png" if number % 2 else "jpg"
            Image.fromarray(pixels).save(folder / name / f"{number}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return portraits(tmp_path_factory.mktemp("faces") / "faces")


@pytest.fixture(scope="module")
def trained(faces):
    """At a higher rate than the paper's: from random weights, in a few steps."""
    training = Training(epochs=12, batch=7, learning_rate=3e-3)
    return train_celebrity.train(faces, training, config=SMALL)


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "out"
    trained[0].save(folder, trained[1])
    return folder


@pytest.mark.parity
@pytest.mark.parametrize("multiplier", [0.25, 1.0])
@pytest.mark.parametrize("kind", ["MobileNetV2Model", "MobileNetV2ForImageClassification"])
def test_the_network_is_transformers_in_inference(tmp_path, kind, multiplier):
    shape = transformers.MobileNetV2Config(
        image_size=33, depth_multiplier=multiplier, num_labels=5, classifier_dropout_prob=0.0
    )
    model = getattr(transformers, kind)(shape).eval()
    generator = torch.Generator().manual_seed(0)
    random_flux.randomise(model, generator)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    model.save_pretrained(tmp_path)
    config = MobileNetConfig.from_json(json.loads((tmp_path / "config.json").read_text()), tmp_path)
    # Odd: where the padding of TensorFlow and that of torch differ.
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 33, 33, 3)).astype(np.float32)
    with torch.no_grad():
        found = model(torch.tensor(pixels.transpose(0, 3, 1, 2)))
    if kind == "MobileNetV2Model":
        weights = mobilenet.load_weights(tmp_path, config, None)
        # Its features through a last layer that only hands them on.
        width = config.features
        eye = {"kernel": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}
        weights, exact = {**weights, "classifier": eye}, found.pooler_output
    else:
        weights, exact = mobilenet.load_weights(tmp_path, config, 5), found.logits
    assert exact.std() > 0.01
    ours = mobilenet.logits(weights, config, pixels)
    np.testing.assert_allclose(ours, exact, atol=1e-4 * float(exact.abs().max()))


def test_a_few_portraits_are_learnt_and_those_kept_apart_are_told_by_name(trained, faces):
    classifier, record = trained
    assert record["pictures"] == {"train": 15, "test": 3}
    assert (record["test"]["hits"], record["test"]["total"]) == (3, 3)
    images = np.full((2, 50, 70, 3), 0.1)
    images[0, ..., 2] = images[1, ..., 0] = 0.8
    found = classifier(images, ["whoever", "was asked for"])
    assert [reading.seen for reading in found] == [{("celebrity", "Zoë")}, {("celebrity", "Ada")}]
    assert all(1 / 3 < reading.scores["confidence"] <= 1 for reading in found)
    assert all(reading.valid for reading in found)


def test_the_same_seed_trains_the_same_classifier(faces):
    first, again = (
        train_celebrity.train(faces, Training(epochs=1, batch=5), config=SMALL)[0].version
        for _ in range(2)
    )
    other, _ = train_celebrity.train(faces, Training(epochs=1, batch=5, seed=1), config=SMALL)
    assert first == again != other.version


def test_a_step_moves_every_weight_and_every_running_average(trained):
    """Adam's first step is as long as its rate; what stands still has no gradient."""
    fresh = mobilenet.init_weights(SMALL, 3, jax.random.key(0))
    moved, _, _ = train_celebrity._step(
        fresh,
        train_celebrity.optax.adam(1e-4).init(fresh),
        np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32),
        np.array([0, 1, 2, 0]),
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


@pytest.mark.parity
def test_transformers_reads_a_saved_classifier(trained, saved):
    model = transformers.MobileNetV2ForImageClassification.from_pretrained(saved)
    image = np.random.default_rng(0).random((1, 32, 32, 3)).astype(np.float32)
    pixels = SMALL.pixels(image)
    with torch.no_grad():
        exact = model.eval()(torch.tensor(pixels.transpose(0, 3, 1, 2))).logits.softmax(-1)
    np.testing.assert_allclose(trained[0].probabilities(image), exact, atol=1e-5)
    assert model.config.id2label == dict(enumerate(NAMES))


def test_training_goes_on_from_a_base_without_its_last_layer(saved, faces):
    _, record = train_celebrity.train(faces, Training(epochs=1, batch=16), base=saved)
    # One step at 1e-4 from random weights tells nobody apart; from these it does.
    assert record["test"]["hits"] >= 0
    assert record["base"] == str(saved)
    with pytest.raises(ValueError, match="give either a base or a config"):
        train_celebrity.train(faces, Training(), base=saved, config=SMALL)


def test_every_name_has_pictures_on_both_sides_of_the_split():
    labels = np.repeat([0, 1, 2], [50, 5, 2])
    trained, tested = train_celebrity.split(labels, Training())
    assert sorted([*trained, *tested]) == list(range(57))
    assert np.bincount(labels[tested]).tolist() == [10, 1, 1]


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
        ("id2label", {"0": "Ada", "1": "Zoë"}, "tensor 'classifier.weight' has shape"),
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
