"""Portraits that the frozen model paints of names, and the classifier that learns from them.

Sentences and seeds are training's: a task asks for the names in other sentences, with other seeds.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from convert.disk import draft, entry, read_json, reported
from ea_jax.arguments import Parser, number, text
from ea_jax.concepts.lexicon import World
from ea_jax.detectors import train_celebrity
from ea_jax.detectors.celebrity import Classifier
from ea_jax.detectors.mobilenet import MobileNetConfig
from ea_jax.detectors.train_celebrity import Training
from ea_jax.evaluate.metrics import Rate
from ea_jax.painter import Painter
from ea_jax.runtime.pixels import as_bytes

CLASSIFIER = "classifier"
# The last file that a classifier's folder gets.
RECORD = "training.json"
_SEEDS = 500_000_000  # evaluation's begin at a million, an erasure's at 2**31
# From random weights the paper's 1e-4 learns next to nothing in a few hundred pictures, and without
# shifts a network learns these by heart.
FROM_RANDOM = Training(epochs=60, learning_rate=1e-3, shift=0.25)
FROM_WEIGHTS = Training()
_TRUSTED = 80.0  # percent of test pictures
_SIDE = 224  # of pictures to the paper's network
_log = logging.getLogger(__name__)


def prompts_of(world: World, names: Sequence[str], count: int) -> dict[str, list[str]]:
    """Each name's prompts, in the sentences that an erasure is trained with."""
    found = {}
    for name in names:
        sentences = world.phrases.around(name, "person", avoid=()).sentences
        found[name] = [sentences[i % len(sentences)] for i in range(count)]
    return found


def paint(painter: Painter, prompts: Mapping[str, Sequence[str]], folder: Path) -> None:
    """Writes a PNG for each prompt, in a subfolder a name; those that are there stay.

    Raises:
      OSError: it can't be written.
    """
    for n, (name, asked) in enumerate(prompts.items()):
        files = [folder / name / f"{i:03}.png" for i in range(len(asked))]
        absent = [i for i, file in enumerate(files) if not file.is_file()]
        if not absent:
            continue
        _log.info("%d of %d: %d portraits of %s", n + 1, len(prompts), len(absent), name)
        images = painter.paint([asked[i] for i in absent], [_seed(prompts, n, i) for i in absent])
        with reported(folder / name):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for i, image in zip(absent, images, strict=True):
            with draft(files[i]) as unfinished:
                Image.fromarray(as_bytes(image)).save(unfinished)


def _seed(prompts: Mapping[str, Sequence[str]], name: int, picture: int) -> int:
    return _SEEDS + name * max(map(len, prompts.values())) + picture


def add_start_arguments(parser: Parser) -> None:
    """Adds to a command where a classifier's training starts."""
    parser.add(
        "--weights",
        rule=text,
        help="MobileNetV2 to start from, like google/mobilenet_v2_1.0_224; random if none",
    )
    parser.add(
        "--image_size",
        rule=number(int, low=32, high=1024),
        help=f"side of its pictures where it starts at random; {_SIDE} or what is painted",
    )


def start(given: argparse.Namespace, side: int = _SIDE) -> tuple[Training, MobileNetConfig | None]:
    """How a classifier is trained from a command's `weights`, and its shape without them.

    Args:
      given: the arguments of `add_start_arguments`.
      side: of the pictures, in pixels.
    Raises:
      ValueError: both weights and a size, or weights that aren't there.
    """
    if given.weights is None:
        return FROM_RANDOM, MobileNetConfig(image_size=given.image_size or min(side, _SIDE))
    if given.image_size is not None:
        raise ValueError("--image_size is that of the --weights; give one of the two")
    train_celebrity.require_base(given.weights)
    return FROM_WEIGHTS, None


def learn(
    painter: Painter,
    prompts: Mapping[str, Sequence[str]],
    out: Path,
    given: argparse.Namespace,
) -> None:
    """Trains a task's classifier on new portraits, unless it is in the task's folder already.

    Args:
      painter: with the prompts encoded.
      prompts: each name's, see `prompts_of`.
      out: the task's folder.
      given: the arguments of `add_start_arguments`.
    Raises:
      ValueError: a classifier of other names, or weights or pictures that can't be used.
    """
    folder = out / CLASSIFIER
    if not (folder / RECORD).is_file():
        how, config = start(given, painter.sampling.side(painter.pipeline))
        paint(painter, prompts, out / "portraits")
        _log.info("training a classifier of %d names", len(prompts))
        made, facts = train_celebrity.train(
            out / "portraits", how, base=given.weights, config=config
        )
        made.save(folder, facts)
    if {*Classifier.load(folder).names} != {*prompts}:
        raise ValueError(f"{folder} was trained on other names; give another --out")


def tested(folder: str | Path) -> Rate:
    """Of the pictures that a classifier was tested on, those that it got right.

    Raises:
      FileError: its record is absent, or damaged.
    """
    path, way_out = Path(folder) / RECORD, "train the classifier again"
    found = entry(read_json(path, way_out=way_out), "test", dict, where=path, way_out=way_out)
    hits, total = (
        entry(found, key, int, where=f"{path}: test", way_out=way_out) for key in ("hits", "total")
    )
    return Rate(hits, total)


def told(rate: Rate, names: int) -> str:
    """How well a classifier does on pictures that it was not trained on, in a sentence."""
    low, high = rate.interval
    said = (
        f"The classifier names {rate.percent:.1f} % ({low:.0f} to {high:.0f}) of {rate.total} "
        f"pictures that it was not trained on, of {names} names."
    )
    if rate.percent < _TRUSTED:
        said += " That is too few for what it says to count; train it on more pictures."
    return said
