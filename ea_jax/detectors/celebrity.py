"""A classifier of people by name: MobileNetV2, global average pooling, a dense softmax.

EraseAnything (ICML 2025), appendix F.1; `detectors.train_celebrity` trains one.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert import disk, files, layouts, single, trees
from convert.files import WeightsError
from ea_jax.detectors import mobilenet
from ea_jax.detectors.mobilenet import MobileNetConfig, Weights
from ea_jax.evaluate.probes import Reading
from ea_jax.runtime.fingerprint import fingerprint

HEAD = "celebrity"
# Pictures at once.
ROWS = 32


class Classifier:
    """Says whose picture it is; as a detector it reports the likeliest of its names.

    It knows no "none": `scores["confidence"]`, its probability of that name, is all that tells a
    portrait from anything else, and all pictures are valid to it.

    Attributes:
      weights: float32, tree of `mobilenet.init_weights`.
      config: shape of the network.
      names: of its outputs, in their order.
    """

    name = HEAD

    def __init__(self, weights: Weights, config: MobileNetConfig, names: Sequence[str]) -> None:
        self.weights, self.config, self.names = weights, config, tuple(names)

    @classmethod
    def load(cls, folder: str | Path) -> Classifier:
        """Reads what `save` wrote.

        Raises:
          ValueError: no classifier there, or a damaged file. One line: file, value, way out.
        """
        folder = Path(folder)
        where = folder / "config.json"
        fields = single.read_config(folder, "mobilenet_v2", way_out=mobilenet.WAY_OUT)
        config = MobileNetConfig.from_json(fields, where)
        options: dict[str, Any] = {"way_out": mobilenet.WAY_OUT, "error": WeightsError}
        found = disk.entry(fields, "id2label", dict, where=where, **options)
        names = [
            disk.entry(found, str(index), str, where=f"{where}: id2label", **options)
            for index in range(len(found))
        ]
        return cls(mobilenet.load_weights(folder, config, len(names)), config, names)

    def save(self, folder: str | Path, record: Mapping[str, Any]) -> None:
        """Writes config.json, model.safetensors and training.json; transformers reads them, too.

        Args:
          folder: made if need be.
          record: how it was trained, and how well it does.
        Raises:
          OSError: it can't be written.
        """
        folder = Path(folder)
        with disk.reported(folder):
            folder.mkdir(parents=True, exist_ok=True)
        specs, fetch = trees.tensors(self.weights, layouts.MOBILENET, np.dtype(np.float32))
        arrays = {name: fetch(name) for name in specs}
        # transformers wants these, and doesn't use them.
        arrays |= {
            name.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64)
            for name in specs
            if name.endswith(".running_mean")
        }
        files.write_arrays(folder / "model.safetensors", arrays, {"format": "pt"})
        config = {
            "architectures": ["MobileNetV2ForImageClassification"],
            "model_type": "mobilenet_v2",
            **self.config.as_json(),
            "id2label": {str(index): name for index, name in enumerate(self.names)},
            "label2id": {name: index for index, name in enumerate(self.names)},
        }
        for name, value in (("config.json", config), ("training.json", dict(record))):
            with disk.draft(folder / name) as unfinished:
                text = json.dumps(value, indent=1, ensure_ascii=False)
                unfinished.write_text(text + "\n", encoding="utf-8")

    @property
    def version(self) -> str:
        """Fingerprint of the weights and of the names."""
        return self._version

    @functools.cached_property
    def _version(self) -> str:
        names = hashlib.sha256(json.dumps(self.names).encode()).hexdigest()[:8]
        return f"{fingerprint(self.weights)} {names}"

    def probabilities(self, images_BHWC: np.ndarray) -> np.ndarray:
        """Probability [B, V] of each name, for pictures [B, H, W, 3] in [0, 1] of any size."""
        parts = [np.zeros((0, len(self.names)), np.float32)]
        for start in range(0, len(images_BHWC), ROWS):
            pixels_BHWC = self.config.pixels(images_BHWC[start : start + ROWS])
            parts.append(probabilities(self.weights, self.config, pixels_BHWC))
        return np.concatenate(parts)

    def __call__(self, images_BHWC: np.ndarray, prompts: Sequence[str]) -> Sequence[Reading]:
        """Reads pictures [B, H, W, 3] in [0, 1]; what they were painted for is not looked at."""
        return [self._read(found_V) for found_V in self.probabilities(images_BHWC)]

    def _read(self, found_V: np.ndarray) -> Reading:
        best = int(found_V.argmax())
        seen = frozenset({(HEAD, self.names[best])})
        return Reading(seen, True, {"confidence": float(found_V[best])})


def probabilities(weights: Weights, config: MobileNetConfig, pixels_BHWC: np.ndarray) -> np.ndarray:
    """Probability [B, V] of each name, for at most `ROWS` prepared pictures."""
    count = len(pixels_BHWC)
    # One program for all.
    padded_BHWC = np.pad(pixels_BHWC, ((0, ROWS - count), (0, 0), (0, 0), (0, 0)))
    return np.asarray(_program(weights, config, padded_BHWC))[:count]


@functools.partial(jax.jit, static_argnums=1)
def _program(weights: Weights, config: MobileNetConfig, pixels_BHWC: jax.Array) -> jax.Array:
    return jax.nn.softmax(mobilenet.logits(weights, config, jnp.asarray(pixels_BHWC)))
