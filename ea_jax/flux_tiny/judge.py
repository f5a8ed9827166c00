"""The judge: a small network that says what a picture of flux-tiny's world shows.

It is trained on real renders, and on broken ones for "not a picture", never on generated ones. It
stands in for CLIP, NudeNet and a celebrity classifier on this world, and its numbers are named
after it, never after them.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from convert import disk, files
from convert.files import WeightsError
from ea_jax.flux_tiny import vocabulary
from ea_jax.flux_tiny.training.loop import Weights

PATCH = 2  # px, of the first layer's input
NONE = "none"
_WAY_OUT = "give the judge folder of flux-tiny"
_LARGEST = 1 << 16
LABELS: dict[str, tuple[str, ...]] = {
    "object": vocabulary.THINGS,
    "style": vocabulary.STYLE_NAMES,
    "relation": (NONE, *vocabulary.RELATION_NAMES),
    "dress": (NONE, vocabulary.NUDE.name, vocabulary.DRESSED.name),
    "background": tuple(vocabulary.BACKGROUNDS),
    "valid": ("broken", "valid"),
}
"""Labels of each head, in the order of its outputs. `object` may find several, or none."""
PLACED = ("relation", "valid")
"""Heads that see where in the picture something is; the others see only what is there."""


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """Sizes of the judge.

    Attributes:
      channels: of the three stages, at 1/2, 1/4 and 1/8 of the picture's side.
      look, layout: widths of the features that say what is there, and where.
      joint: width of the space that pictures and captions share.
      words: buckets that a caption's words are hashed into.
      caption_words: words of a caption that are read.
    """

    channels: tuple[int, int, int] = (32, 64, 128)
    look: int = 192
    layout: int = 64
    joint: int = 64
    words: int = 1024
    caption_words: int = 24

    @property
    def features(self) -> int:
        return self.look + self.layout + len(LABELS["object"])


def init_weights(config: JudgeConfig, key: jax.Array) -> Weights:
    """Random weights; residual branches start at zero."""
    keys = iter(jax.random.split(key, 64))

    def linear(inputs: int, outputs: int, gain: float = 1.0) -> Weights:
        deviation = gain * (2 / inputs) ** 0.5
        kernel = deviation * jax.random.normal(next(keys), (inputs, outputs))
        return {"kernel": kernel, "bias": jnp.zeros(outputs)}

    def residual(width: int) -> Weights:
        return {
            "norm": jnp.ones(width),
            "conv1": linear(9 * width, width),
            "conv2": linear(9 * width, width, gain=0.0),
        }

    a, b, c = config.channels
    both = config.look + config.layout
    width = {name: both if name in PLACED else config.look for name in LABELS}
    return {
        "stem": linear(9 * 3 * PATCH**2, a),
        "stage1": residual(a),
        "down1": linear(4 * a, b),
        "stage2": residual(b),
        "down2": linear(4 * b, c),
        "stage3": residual(c),
        "stage4": residual(c),
        "look": linear(2 * c, config.look),
        # All 8 x 8 places, thinned out.
        "thin": linear(c, c // 8),
        "layout": linear(64 * (c // 8), config.layout),
        # What is at each place: of two objects, each is found where it is.
        "places": linear(c, len(LABELS["object"]), 0.1),
        "heads": {name: linear(width[name], len(LABELS[name]), 0.1) for name in LABELS},
        "picture": linear(both, config.joint),
        "words": {"embedding": jax.random.normal(next(keys), (config.words, config.joint))},
        "caption": linear(config.joint, config.joint),
        "temperature": jnp.float32(2.0),
    }


def features(weights: Weights, images_BHWC: jax.Array) -> jax.Array:
    """Features of pictures: what is there, wherever it is on the 8 px grid; where; which objects.

    Args:
      weights: of `init_weights`.
      images_BHWC: [B, 64, 64, 3] in [0, 1].
    Returns:
      [B, look + layout + objects] float32: what the heads read. The first two groups are not
      negative; the last sums up what each place says of each object.
    """
    x = _fold(2 * images_BHWC.astype(jnp.float32) - 1, PATCH)
    x = jax.nn.relu(_dense(weights["stem"], _neighbours(x)))
    x = _residual(weights["stage1"], x)
    x = _dense(weights["down1"], _fold(x, 2))
    x = _residual(weights["stage2"], x)
    x = _dense(weights["down2"], _fold(x, 2))
    x = _residual(weights["stage3"], x)
    x = _normalise(_residual(weights["stage4"], x))
    pooled = jnp.concatenate([x.mean((1, 2)), x.max((1, 2))], axis=-1)
    look = jax.nn.relu(_dense(weights["look"], pooled))
    thin = jax.nn.relu(_dense(weights["thin"], x))
    layout = jax.nn.relu(_dense(weights["layout"], thin.reshape(len(x), -1)))
    objects = jax.nn.logsumexp(_dense(weights["places"], x), axis=(1, 2)) - math.log(64)
    return jnp.concatenate([look, layout, objects], axis=-1)


def scores(weights: Weights, features_BF: jax.Array) -> dict[str, jax.Array]:
    """Logits of each head, [B, labels]; an object is there where its logit is above 0."""
    found = {
        name: _dense(head, features_BF[:, : len(head["kernel"])])
        for name, head in weights["heads"].items()
    }
    return {**found, "object": found["object"] + features_BF[:, -len(LABELS["object"]) :]}


def picture_vectors(weights: Weights, features_BF: jax.Array) -> jax.Array:
    """Unit vectors [B, joint] of pictures."""
    return _unit(_dense(weights["picture"], features_BF[:, : len(weights["picture"]["kernel"])]))


def caption_vectors(weights: Weights, words_BW: jax.Array) -> jax.Array:
    """Unit vectors [B, joint] of captions given as hashed words, see `hash_words`."""
    known = (words_BW >= 0)[..., None]
    found = weights["words"]["embedding"][jnp.maximum(words_BW, 0)] * known
    mean = found.sum(1) / jnp.maximum(known.sum(1), 1)
    return _unit(_dense(weights["caption"], jax.nn.relu(mean) + mean))


def hash_words(captions: Sequence[str], config: JudgeConfig) -> np.ndarray:
    """Words and neighbouring pairs of captions as buckets, int32 [B, caption_words]; -1 fills."""
    out = np.full((len(captions), config.caption_words), -1, np.int32)
    for row, caption in zip(out, captions, strict=True):
        words = re.findall(r"[\w'-]+", caption.lower())
        pairs = [f"{a} {b}" for a, b in itertools.pairwise(words)]
        found = [zlib.crc32(word.encode()) % config.words for word in (*words, *pairs)]
        found = found[: config.caption_words]
        row[: len(found)] = found
    return out


class Judge:
    """A trained judge.

    Attributes:
      weights: float32.
      config: its sizes.
      labels: names of each head's outputs.
    """

    def __init__(self, weights: Weights, config: JudgeConfig) -> None:
        self.weights, self.config, self.labels = weights, config, LABELS

    @classmethod
    def load(cls, folder: str | Path) -> Judge:
        """Reads `judge.json` and `judge.safetensors`.

        Raises:
          ValueError: no judge there, damaged files, or a judge of another world.
        """
        folder = Path(folder)
        config = _read_config(folder)
        file = folder / "judge.safetensors"
        stored = files.header(file)[0]
        template = jax.eval_shape(lambda: init_weights(config, jax.random.key(0)))
        names = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(template)}
        wrong = [
            name
            for name in {*names, *stored}
            if name not in names or name not in stored or names[name].shape != stored[name].shape
        ]
        if wrong:
            raise WeightsError(f"{file}: tensor {min(wrong)!r} doesn't fit; {_WAY_OUT}")
        weights = jax.tree.map_with_path(
            lambda path, _: jnp.asarray(
                files.read_finite(_name(path), stored[_name(path)]).astype(np.float32)
            ),
            template,
        )
        return cls(weights, config)

    def save(self, folder: str | Path) -> None:
        """Writes `judge.json` and `judge.safetensors`, in half precision."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        half = {
            _name(path): np.asarray(leaf, np.float16)
            for path, leaf in jax.tree.leaves_with_path(self.weights)
        }
        save_file(half, folder / "judge.safetensors")
        (folder / "judge.safetensors").chmod(0o644)  # the library writes for its owner alone
        record = {"config": dataclasses.asdict(self.config), "labels": LABELS}
        (folder / "judge.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")

    def __call__(self, images_BHWC: np.ndarray) -> dict[str, np.ndarray]:
        """Probabilities of each head, [B, labels]; `object`'s are independent of one another.

        Args:
          images_BHWC: [B, 64, 64, 3] in [0, 1].
        """
        return self.probabilities(self.features(images_BHWC))

    def probabilities(self, features_BF: np.ndarray) -> dict[str, np.ndarray]:
        """As a call, of pictures by their `features`."""
        return self._in_batches(_probabilities, features_BF)

    def features(self, images_BHWC: np.ndarray) -> np.ndarray:
        """Features [B, features] of pictures, see the function of that name."""
        return self._in_batches(_features, images_BHWC)

    def agreement(self, features_BF: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """Cosine of each picture, by its `features`, and its caption, [B] in [-1, 1]."""
        return self._in_batches(_agreement, features_BF, hash_words(captions, self.config))

    def _in_batches(self, program: Any, *rows: np.ndarray) -> Any:
        """What a program makes of rows, in batches of one size, few rows in one of 8."""
        count = len(rows[0])
        batch = 8 if count <= 8 else 32
        # Without any row, a batch of padding says what the results look like.
        padding = batch if not count else -count % batch
        padded = [np.pad(x, [(0, padding), *[(0, 0)] * (x.ndim - 1)]) for x in rows]
        made = [
            program(self.weights, *(x[first : first + batch] for x in padded))
            for first in range(0, count + padding, batch)
        ]
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *made)


_features = jax.jit(features)


@jax.jit
def _probabilities(weights: Weights, features_BF: jax.Array) -> dict[str, jax.Array]:
    return {
        name: jax.nn.sigmoid(x) if name == "object" else jax.nn.softmax(x)
        for name, x in scores(weights, features_BF).items()
    }


@jax.jit
def _agreement(weights: Weights, features_BF: jax.Array, words_BW: jax.Array) -> jax.Array:
    pictures, captions = picture_vectors(weights, features_BF), caption_vectors(weights, words_BW)
    return (pictures * captions).sum(-1)


def _read_config(folder: Path) -> JudgeConfig:
    """Sizes in `judge.json`; ValueError unless they are those of a judge with these labels."""
    path = folder / "judge.json"
    record = disk.read_json(path, way_out=_WAY_OUT)
    stated = {
        key: disk.entry(record, key, dict, where=path, way_out=_WAY_OUT)
        for key in ("config", "labels")
    }
    config, labels = stated["config"], {name: list(values) for name, values in LABELS.items()}
    if stated["labels"] != labels or set(config) != {
        f.name for f in dataclasses.fields(JudgeConfig)
    }:
        raise WeightsError(
            f"the judge in {folder} is another version's, of other concepts or sizes; "
            "train it again with --stages judge"
        )
    channels = disk.entry(config, "channels", list, where=path, way_out=_WAY_OUT)
    sizes = {
        key: disk.entry(config, key, int, where=path, way_out=_WAY_OUT)
        for key in config
        if key != "channels"
    }
    for key, size in [*sizes.items(), *(("channels", size) for size in channels)]:
        if type(size) is not int or not 1 <= size <= _LARGEST:
            raise WeightsError(
                f"{path}: {key!r} holds {size!r}; it has to be a whole number from 1 to "
                f"{_LARGEST}; {_WAY_OUT}"
            )
    if len(channels) != 3:
        raise WeightsError(f"{path}: 'channels' has {len(channels)} items, not 3; {_WAY_OUT}")
    return JudgeConfig(channels=tuple(channels), **sizes)


def _name(path: Any) -> str:
    return ".".join(key.key for key in path)


def _dense(layer: Weights, x: jax.Array) -> jax.Array:
    # As one matrix of rows: the gradient of a product with more leading axes is slow on a CPU.
    rows = x.reshape(-1, x.shape[-1]) @ layer["kernel"] + layer["bias"]
    return rows.reshape(*x.shape[:-1], -1)


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6)


def _normalise(x: jax.Array) -> jax.Array:
    """Channels to mean square 1, place by place."""
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)


def _residual(block: Weights, x: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(_normalise(x) * block["norm"])
    hidden = jax.nn.relu(_dense(block["conv1"], _neighbours(hidden)))
    return x + _dense(block["conv2"], _neighbours(hidden))


def _neighbours(x_BhwC: jax.Array) -> jax.Array:
    """The 3 x 3 surroundings of each place as channels: a convolution is then one product.

    On CPU, XLA's convolutions are slow to differentiate; its matrix products are not.
    """
    h, w = x_BhwC.shape[1:3]
    padded = jnp.pad(x_BhwC, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return jnp.concatenate(parts, axis=-1)


def _fold(x_BhwC: jax.Array, side: int) -> jax.Array:
    """Squares of `side` places as channels of one place."""
    B, h, w, C = x_BhwC.shape
    x = x_BhwC.reshape(B, h // side, side, w // side, side, C)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, h // side, w // side, side * side * C)
