"""Training of the classifier of people, on a folder of pictures with one subfolder a name.

EraseAnything (ICML 2025), appendix F.1: MobileNetV2 from ImageNet weights, Adam at a fixed 1e-4,
categorical cross-entropy, four fifths to train on and one to test. Number of epochs, batch and
augmentation are not stated there; here they are settings, and pictures are not moved by default.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from PIL import Image

from convert import disk, single
from ea_jax.detectors import celebrity, mobilenet
from ea_jax.detectors.celebrity import Classifier
from ea_jax.detectors.mobilenet import MobileNetConfig, Weights
from ea_jax.detectors.pixels import Pixels
from ea_jax.evaluate.metrics import Rate
from ea_jax.settings.fields import MANY, check, number

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_ADAM = optax.scale_by_adam()
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Training:
    """How a classifier is trained.

    Attributes:
      epochs: times that every picture is seen.
      batch: pictures of a step.
      learning_rate: of Adam, fixed.
      tested: share of each name's pictures that is kept for the test.
      shift: how far a picture is moved at random, each time that it is seen, up and down and
        sideways: at most this share of its side. 0 leaves it where it is.
      seed: of the split, the order, the shifts, and weights that start at random.
    """

    epochs: int = number(int, low=1, high=MANY, default=20)
    batch: int = number(int, low=1, high=MANY, default=32)
    learning_rate: float = number(float, low=0, high=1, above=True, default=1e-4)
    tested: float = number(float, low=0, high=1, above=True, below=True, default=0.2)
    shift: float = number(float, low=0, high=0.5, default=0.0)
    seed: int = number(int, low=0, default=0)

    def __post_init__(self) -> None:
        check(self, "classifier")


@dataclasses.dataclass(frozen=True)
class Portraits:
    """Pictures of people.

    Attributes:
      bytes_PHWC: uint8 squares.
      labels_P: place of each one's name among `names`.
      names: in alphabetical order.
    """

    bytes_PHWC: np.ndarray
    labels_P: np.ndarray
    names: tuple[str, ...]


def read(folder: str | Path, pixels: Pixels) -> Portraits:
    """Reads a folder of pictures, one subfolder a name; other files are not looked at.

    Args:
      folder: with PNG, JPEG or WebP pictures in its subfolders.
      pixels: how they become squares.
    Raises:
      ValueError: no folder, fewer than two names, a name with fewer than two pictures, or a picture
        that can't be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one with a subfolder of pictures a name")
    found = {
        person.name: [at for at in disk.shown(person.iterdir()) if at.suffix.lower() in _SUFFIXES]
        for person in disk.shown(folder.iterdir())
        if person.is_dir()
    }
    if len(found) < 2:
        raise ValueError(
            f"{folder} has {len(found)} subfolders; a classifier needs two names at least, each "
            "with a subfolder of its pictures"
        )
    for name, files in found.items():
        if len(files) < 2:
            raise ValueError(
                f"{folder / name} holds {len(files)} pictures; two are needed at least, one to "
                "train on and one to test; add some, or remove the folder"
            )
    squares = [_square(file, pixels) for files in found.values() for file in files]
    counts = [len(files) for files in found.values()]
    return Portraits(np.stack(squares), np.repeat(np.arange(len(found)), counts), tuple(found))


def split(labels_P: np.ndarray, training: Training) -> tuple[np.ndarray, np.ndarray]:
    """Places of the pictures to train on, and of those to test; of each name some of both."""
    rng = np.random.default_rng(training.seed)
    trained, tested = [], []
    for label in range(labels_P.max() + 1):
        places = rng.permutation(np.flatnonzero(labels_P == label))
        count = min(max(round(training.tested * len(places)), 1), len(places) - 1)
        tested.append(places[:count])
        trained.append(places[count:])
    return np.sort(np.concatenate(trained)), np.sort(np.concatenate(tested))


def train(
    folder: str | Path,
    training: Training,
    *,
    base: str | Path | None = None,
    config: MobileNetConfig | None = None,
) -> tuple[Classifier, dict[str, Any]]:
    """Trains a classifier, and tests it.

    Args:
      folder: of pictures, see `read`.
      training: how.
      base: MobileNetV2 to start from, a folder or a hub id (google/mobilenet_v2_1.0_224 is
        ImageNet's); None starts at random.
      config: shape of the network where there is no base.
    Returns:
      The classifier, and a record of how it was trained and how many test pictures it gets right.
    Raises:
      ValueError: pictures or a base that can't be used.
    """
    weights, config = _start(base, config)
    portraits = read(folder, config.pixels)
    trained, tested = split(portraits.labels_P, training)
    key = jax.random.key(training.seed)
    fresh = mobilenet.init_weights(config, len(portraits.names), key)
    weights = {**fresh, **weights}
    moments, rng = _ADAM.init(weights), np.random.default_rng((training.seed, 1))
    batch = min(training.batch, len(trained))
    for epoch in range(training.epochs):
        # What is left over at an epoch's end comes in another one.
        order = rng.permutation(trained)[: len(trained) // batch * batch]
        losses = []
        for places in order.reshape(-1, batch):
            seen_BHWC = shifted(portraits.bytes_PHWC[places], training.shift, rng)
            weights, moments, loss = _step(
                weights,
                moments,
                config.pixels.normalised(seen_BHWC),
                portraits.labels_P[places],
                config=config,
                learning_rate=training.learning_rate,
            )
            losses.append(loss)
        loss = float(np.mean(jax.device_get(losses)))
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} in epoch {epoch + 1}; start again with a lower learning_rate"
            )
        _log.info("epoch %d of %d: loss %.4f", epoch + 1, training.epochs, loss)
    classifier = Classifier(weights, config, portraits.names)
    rate = _tested(classifier, portraits, tested)
    record = {
        "training": dataclasses.asdict(training),
        "base": None if base is None else str(base),
        "pictures": {"train": len(trained), "test": len(tested)},
        "test": rate.as_json(),
    }
    return classifier, record


def shifted(images_BHWC: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Pictures, each moved at random by at most a share of its side; its edges are drawn out."""
    side = images_BHWC.shape[1]
    reach = round(share * side)
    if not reach:
        return images_BHWC
    around = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    padded_BHWC = np.pad(images_BHWC, around, mode="edge")
    corners_B2 = rng.integers(2 * reach + 1, size=(len(images_BHWC), 2))
    moved = [
        image_HWC[top : top + side, left : left + side]
        for image_HWC, (top, left) in zip(padded_BHWC, corners_B2, strict=True)
    ]
    return np.stack(moved)


@functools.partial(jax.jit, static_argnames="config")
def _step(weights, moments, pixels_BHWC, labels_B, *, config, learning_rate):
    def loss_of(weights: Weights) -> tuple[jax.Array, Weights]:
        logits_BV, moved = mobilenet.training_logits(weights, config, pixels_BHWC)
        losses_B = optax.softmax_cross_entropy_with_integer_labels(logits_BV, labels_B)
        return losses_B.mean(), moved

    (loss, moved), grads = jax.value_and_grad(loss_of, has_aux=True)(weights)
    updates, moments = _ADAM.update(grads, moments)
    # Running averages have no gradient, hence no update: they stay as the pass left them.
    weights = jax.tree.map(lambda old, update: old - learning_rate * update, moved, updates)
    return weights, moments, loss


def require_base(base: str | Path) -> tuple[Path, MobileNetConfig]:
    """The folder of a base, downloaded if need be, and its shape; ValueError for none such."""
    folder = mobilenet.locate(base)
    fields = single.read_config(folder, "mobilenet_v2", way_out=mobilenet.WAY_OUT)
    return folder, MobileNetConfig.from_json(fields, folder / "config.json")


def _start(
    base: str | Path | None, config: MobileNetConfig | None
) -> tuple[Weights, MobileNetConfig]:
    """The weights that are there before the training, without a last layer, and their shape."""
    if base is None:
        return {}, config or MobileNetConfig()
    if config is not None:
        raise ValueError("a base has a shape of its own; give either a base or a config")
    folder, config = require_base(base)
    return mobilenet.load_weights(folder, config, None), config


def _tested(classifier: Classifier, portraits: Portraits, places: np.ndarray) -> Rate:
    hits = 0
    for start in range(0, len(places), celebrity.ROWS):
        part = places[start : start + celebrity.ROWS]
        pixels_BHWC = classifier.config.pixels.normalised(portraits.bytes_PHWC[part])
        found_BV = celebrity.probabilities(classifier.weights, classifier.config, pixels_BHWC)
        hits += int((found_BV.argmax(-1) == portraits.labels_P[part]).sum())
    return Rate(hits, len(places))


def _square(file: Path, pixels: Pixels) -> np.ndarray:
    try:
        with Image.open(file) as picture:
            return pixels.square(picture)
    except OSError as error:
        raise ValueError(f"{file} can't be read ({error}); remove or replace it") from None
