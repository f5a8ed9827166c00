"""The parts of a FLUX pipeline in diffusers' layout; each is loaded and dropped on its own."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

import convert.bfl
import convert.diffusers
from convert.trees import Put, Wanted
from ea_jax.flux import clip, folder, hub, t5, transformer, vae
from ea_jax.flux.transformer import Weights
from ea_jax.runtime.fingerprint import fingerprint

PARTS = ("text_encoder", "text_encoder_2", "vae", "transformer")
_SMALL_FILES = ["*.json", "scheduler/*", "tokenizer/*", "tokenizer_2/*", "*/config.json"]
_log = logging.getLogger(__name__)


class Parts:
    """Configs, tokenizers and weights of a pipeline.

    Attributes:
      folder: where it lies on this machine.
      dtype: of weights and activations.
      schedule: noise levels.
      transformer_config, clip_config, t5_config, vae_config: shapes of the parts.
      weights: {part: tree} of the parts that are loaded.
      side: of its own pictures, in pixels.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        dtype: Any = None,
        put: Put | None = None,
        wanted: Wanted | None = None,
        revision: str | None = None,
        transformer_file: str | Path | None = None,
    ):
        """Reads configs and tokenizers, no weights; arguments as for `load`."""
        self._source, self._revision = source, revision
        self._put, self._wanted = put, wanted
        if dtype is None:
            dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        self.dtype = np.dtype(dtype)
        self.folder = hub.locate(source, _SMALL_FILES, revision)
        if transformer_file is None and hub.is_here(source):
            transformer_file = convert.bfl.beside(self.folder)
        self._transformer_file = transformer_file
        described = folder.read(self.folder, transformer_file)
        self.transformer_config = described.transformer
        self.clip_config, self.t5_config = described.clip, described.t5
        self.vae_config, self.schedule = described.vae, described.schedule
        self.clip_tokenizer = described.clip_tokenizer
        self.t5_tokenizer = described.t5_tokenizer
        self.weights: dict[str, Weights] = {}
        self._templates: dict[str, Weights] = {}
        self._fingerprints: dict[str, str] = {}
        self.side = described.side

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        dtype: Any = None,
        parts: Sequence[str] = PARTS,
        put: Put | None = None,
        wanted: Wanted | None = None,
        revision: str | None = None,
        transformer_file: str | Path | None = None,
    ) -> Self:
        """Loads a pipeline.

        Args:
          source: folder in diffusers' layout, `flux-tiny`, or a hub id.
          dtype: of weights and activations; None is float32 on CPU, bfloat16 elsewhere.
          parts: which of `PARTS` to load now; `load_part` and `drop` do the rest later.
          put: (path, host array) -> device array, path starting with the part: where a part is
            sharded. None uses the default device.
          wanted: (path, shape) -> slices of the array that `put` gets, so that a host reads its
            own part alone; None is all of it.
          revision: of a hub id.
          transformer_file: the transformer in Black Forest Labs' single-file layout, in place of
            the folder's; None takes one that lies in a folder without weights in `transformer`.
        Raises:
          ValueError: not a FLUX pipeline, or files that don't hold what they should; the message
            names file or tensor, and the way out.
        """
        pipeline = cls(
            source,
            dtype=dtype,
            put=put,
            wanted=wanted,
            revision=revision,
            transformer_file=transformer_file,
        )
        for part in parts:
            pipeline.load_part(part)
        return pipeline

    def load_part(self, part: str) -> Weights:
        """Loads the weights of one part, if they aren't here already."""
        if part in self.weights:
            return self.weights[part]
        template = self.template(part)
        options = {
            name: _within(part, function)
            for name, function in (("put", self._put), ("wanted", self._wanted))
        }
        _log.info("loading %s of %s", part, self._source)
        if part == "transformer" and self._transformer_file is not None:
            weights = convert.bfl.load(template, self._transformer_file, **options)
        else:
            where = self.part_folder(part).parent
            weights = convert.diffusers.load(template, where, part, **options)
        self.weights[part] = weights
        return weights

    def check_files(self) -> None:
        """Compares the headers of all weights that are here with what the configs describe.

        Of a hub's repository nothing is looked at: parts are downloaded when they are loaded.

        Raises:
          ValueError: a part's file is absent, damaged, or of another model; names file or tensor.
        """
        if not hub.is_here(self._source):
            return
        for part in PARTS:
            if part == "transformer" and self._transformer_file is not None:
                convert.bfl.check(self.template(part), self._transformer_file)
            else:
                convert.diffusers.check(self.template(part), self.folder, part)

    def part_folder(self, part: str) -> Path:
        """Where a part's files lie, downloaded if need be."""
        return hub.locate(self._source, [*_SMALL_FILES, f"{part}/*"], self._revision) / part

    def template(self, part: str) -> Weights:
        """A part's tree as ShapeDtypeStructs; traced once."""
        if part not in PARTS:
            raise ValueError(f"part {part!r} is unknown; choose from {list(PARTS)}")
        if part not in self._templates:
            module, config = {
                "transformer": (transformer, self.transformer_config),
                "text_encoder": (clip, self.clip_config),
                "text_encoder_2": (t5, self.t5_config),
                "vae": (vae, self.vae_config),
            }[part]
            traced = _abstract_weights(module, config, self.dtype)
            self._templates[part] = jax.tree.map(lambda leaf: leaf, traced)
        return self._templates[part]

    def fingerprint(self, part: str) -> str:
        """Hash of a part's weights, which are loaded for it; computed once.

        Ask for it before they are laid out otherwise in `weights`: it stays that of the model.
        """
        if part not in self._fingerprints:
            self._fingerprints[part] = fingerprint(self.load_part(part))
        return self._fingerprints[part]

    def drop(self, *parts: str) -> None:
        """Forgets the weights of parts, so that their memory can be used for others."""
        for part in parts:
            self.weights.pop(part, None)
            self._fingerprints.pop(part, None)

    def loaded(self, part: str) -> Weights:
        """The weights of a part; ValueError if it isn't loaded."""
        if part not in self.weights:
            raise ValueError(f"{part} is not loaded; call load_part({part!r}) first")
        return self.weights[part]


@functools.lru_cache(maxsize=16)
def _abstract_weights(module: ModuleType, config: Any, dtype: Any) -> Weights:
    """Traced once for all pipelines of one shape, which takes seconds: not to be changed."""
    return module.abstract_weights(config, dtype)


def _within(part: str, function: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """A function of paths in the pipeline, as one of paths in a part of it."""
    return None if function is None else lambda path, what: function((part, *path), what)
