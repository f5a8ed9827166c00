"""CLIP: pictures and texts as unit vectors whose cosine says how well they agree.

clip = Clip.load("openai/clip-vit-large-patch14")
cosines = clip.picture_vectors(images) @ clip.text_vectors(["a photo of a cat"]).T
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert import files, layouts, single
from convert.files import WeightsError
from ea_jax.detectors import clip_pixels, clip_vision
from ea_jax.detectors.clip_vision import VisionConfig
from ea_jax.detectors.pixels import Pixels
from ea_jax.flux import clip, encoders, hub, tokens
from ea_jax.flux.clip import ClipConfig
from ea_jax.runtime.fingerprint import fingerprint

Weights = dict[str, Any]
# Pictures at once: bounds the memory of many, with one program for all of them.
ROWS = 16
_FOLDER = "the folder of a CLIP in transformers' layout, with both towers"
_EXAMPLE = "openai/clip-vit-large-patch14"
_WAY_OUT = f"give {_FOLDER}, or a hub id like {_EXAMPLE}"
# transformers leaves out of a file what has its defaults.
_TEXT_DEFAULTS = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "eos_token_id": 49407,
}
# Buffers, not weights: 0, 1, 2, ..., written by transformers before 4.31.
_BUFFERS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


@dataclasses.dataclass(frozen=True)
class TowersConfig:
    """Shapes of both encoders, and the width that their projections share."""

    text: ClipConfig
    vision: VisionConfig
    projection_dim: int

    @classmethod
    def from_json(cls, config: dict[str, Any], where: str | Path) -> TowersConfig:
        """Reads a CLIPModel's config.json; ValueError, naming the key, for what isn't supported."""
        parts = {name: _part(config, name, where) for name in ("text_config", "vision_config")}
        width = config.get("projection_dim", 512)
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise WeightsError(f"{where}: projection_dim={width!r} is no width; {_WAY_OUT}")
        return cls(
            ClipConfig.from_json({**_TEXT_DEFAULTS, **parts["text_config"]}, where),
            VisionConfig.from_json(parts["vision_config"], where),
            width,
        )


def init_weights(config: TowersConfig, key: jax.Array) -> Weights:
    """Random float32 weights of both towers and their projections."""
    keys = jax.random.split(key, 4)
    return {
        "text": clip.init_weights(config.text, keys[0]),
        "vision": clip_vision.init_weights(config.vision, keys[1]),
        "text_projection": _projection(keys[2], config.text.hidden_size, config),
        "visual_projection": _projection(keys[3], config.vision.hidden_size, config),
    }


class Clip:
    """A CLIP with both towers.

    Attributes:
      weights: float32, tree of `init_weights`.
      config: shapes.
      scale: what cosines are multiplied by to be logits.
      tokenizer: of transformers.
      pixels: how pictures become the encoder's input.
    """

    def __init__(
        self,
        weights: Weights,
        config: TowersConfig,
        *,
        scale: float,
        tokenizer: Any,
        pixels: Pixels,
    ) -> None:
        self.weights, self.config, self.scale = weights, config, scale
        self.tokenizer, self.pixels = tokenizer, pixels

    @classmethod
    def load(cls, source: str | Path, revision: str | None = None) -> Clip:
        """Loads a CLIP.

        Args:
          source: folder in transformers' layout, or a hub id.
          revision: of a hub id.
        Raises:
          ValueError: no CLIP there, a damaged file, or a CLIP of another kind (another
            activation, more text positions). One line: file, value, way out.
        """
        folder = hub.locate_model(source, single.FILES, revision, folder=_FOLDER, ids=_EXAMPLE)
        where = folder / "config.json"
        fields = single.read_config(folder, "clip", way_out=_WAY_OUT)
        config = TowersConfig.from_json(fields, where)
        tokenizer = tokens.read_tokenizer(folder, "tokenizer")
        if tokenizer.vocab_size > config.text.vocab_size:
            raise WeightsError(
                f"{where}: vocab_size={config.text.vocab_size} is less than the "
                f"{tokenizer.vocab_size} tokens beside it; both must be of the same model"
            )
        pixels = clip_pixels.read(folder, config.vision.image_size)
        stored = single.stored(folder)
        for name in _BUFFERS:
            stored.pop(name, None)
        if "logit_scale" not in stored:
            raise WeightsError(f"missing tensor 'logit_scale' in {folder}; {_WAY_OUT}")
        scale = files.read_finite("logit_scale", stored.pop("logit_scale"))
        template = jax.eval_shape(lambda: init_weights(config, jax.random.key(0)))
        weights = single.load(template, stored, layouts.CLIP_TOWERS, folder)
        return cls(
            weights,
            config,
            scale=float(np.exp(scale.astype(np.float32).item())),
            tokenizer=tokenizer,
            pixels=pixels,
        )

    @functools.cached_property
    def version(self) -> str:
        """Another one where the same picture or text would have another vector."""
        return f"{fingerprint(self.weights)} {self.pixels}"

    def picture_vectors(self, images_BHWC: np.ndarray) -> np.ndarray:
        """Unit vectors [B, F] float32 of pictures [B, H, W, 3] in [0, 1]."""
        if len(images_BHWC) == 0:
            return np.zeros((0, self.config.projection_dim), np.float32)
        parts = []
        for start in range(0, len(images_BHWC), ROWS):
            pixels_BHWC = self.pixels(images_BHWC[start : start + ROWS])
            count = len(pixels_BHWC)
            if start:
                fill = ((0, ROWS - count), (0, 0), (0, 0), (0, 0))
                pixels_BHWC = np.pad(pixels_BHWC, fill)
            with jax.default_matmul_precision("float32"):
                found = _picture_program(self.weights, self.config, pixels_BHWC)
            parts.append(np.asarray(found)[:count])
        return np.concatenate(parts)

    def text_vectors(self, prompts: Sequence[str]) -> np.ndarray:
        """Unit vectors [B, F] float32 of texts; what goes beyond 77 tokens is cut, and logged."""
        length = self.config.text.max_position_embeddings
        ids_BT = tokens.tokenize(self.tokenizer, prompts, length).ids_BT
        with jax.default_matmul_precision("float32"):
            pooled_BD = encoders.pool_clip(self.weights["text"], self.config.text, ids_BT)
            return np.asarray(_unit(pooled_BD @ self.weights["text_projection"]["kernel"]))

    def logits(self, images_BHWC: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Scaled cosines [B, G] of each picture and each text, as CLIPModel's logits_per_image."""
        return self.scale * self.picture_vectors(images_BHWC) @ self.text_vectors(prompts).T


@functools.partial(jax.jit, static_argnums=1)
def _picture_program(weights, config, pixels_BHWC):
    pooled_BD = clip_vision.pool(weights["vision"], config.vision, pixels_BHWC)
    return _unit(pooled_BD @ weights["visual_projection"]["kernel"])


def _unit(x_BF: jax.Array) -> jax.Array:
    return x_BF / jnp.linalg.norm(x_BF, axis=-1, keepdims=True)


def _projection(key: jax.Array, width: int, config: TowersConfig) -> Weights:
    return {"kernel": jax.random.normal(key, (width, config.projection_dim)) * width**-0.5}


def _part(config: dict[str, Any], name: str, where: str | Path) -> dict[str, Any]:
    """One tower's keys; the older `<name>_dict` takes precedence, as in transformers."""
    found = config.get(f"{name}_dict") or config.get(name) or {}
    if not isinstance(found, dict):
        raise WeightsError(f"{where}: {name} is no object; {_WAY_OUT}")
    return found
