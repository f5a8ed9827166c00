"""What a method leaves behind: a change of named layers, and what made it.

    edit = load("runs/soccer")                      # a folder, or the file in it
    weights, lora = bind(edit, weights, 0.8)

An edit holds adapters (low rank), changes of whole kernels, or both; or it names words that a
painter hides from the model, and changes nothing in it. A strength of 1 is the change as it was
made; without one, an edit is used at the strength that its maker recommends.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

import convert.peft
from convert.files import WeightsError
from ea_jax import lora as adapters
from ea_jax.edit_origins import FACTS, PARTS, STRENGTH, Origin, number, origins_of
from ea_jax.flux.adapters import AdapterError, Module, check_blocks, kernel_shapes, padded, walk
from ea_jax.runtime.fingerprint import base_hash, fingerprint

# The name that diffusers' `load_lora_weights` looks for in a folder.
LORA_FILE = "pytorch_lora_weights.safetensors"
# diffusers can't read these; `ea-jax merge` folds them into a folder that it can.
DELTA_FILE = "weight_deltas.safetensors"

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Edit:
    """A change of named layers and its origin.

    Attributes:
      adapters: {A: [(L,) in, r], B: [(L,) r, out]} at layers' paths, alpha / r folded into B.
      deltas: {kernel: [(L,) in, out]} at layers' paths.
      zeroed: words whose attention columns the painter zeroes, or takes times 1 - strength for
        another strength than 1; no file holds this.
      base: fingerprint of the weights it was made on; None if unknown, as the rest.
      concept: what it erases.
      preset, method: how.
      strength: recommended by its maker.
      parts: what a combined edit was made of; empty for any other.
      more: further strings of its file, kept as they are.
    """

    adapters: Tree = dataclasses.field(default_factory=dict)
    deltas: Tree = dataclasses.field(default_factory=dict)
    zeroed: tuple[str, ...] = ()
    base: str | None = None
    concept: str | None = None
    preset: str | None = None
    method: str | None = None
    strength: float | None = None
    parts: tuple[Origin, ...] = ()
    more: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.adapters or self.deltas or self.zeroed):
            raise AdapterError("an edit needs adapters or deltas; this one would change nothing")

    def origins(self, strength: float | None = None) -> tuple[Origin, ...]:
        """What it was made of, used at a strength: itself, or the parts of a combined one."""
        used = self.used_strength(strength)
        if not self.parts:
            return (Origin(self.concept, self.method, self.preset, self.base, used),)
        return tuple(
            dataclasses.replace(part, strength=used * (part.strength or 0.0)) for part in self.parts
        )

    def lora(self, strength: float | None = None) -> Tree:
        """Adapters for `velocity` and `Pipeline`, strength folded in.

        Args:
          strength: None takes the recommended one, or 1.
        Raises:
          AdapterError: it changes whole kernels, which adapters can't do; use `bind`. Or it zeroes
            columns.
        """
        self.require_weights()
        if self.deltas:
            raise AdapterError(
                f"edit {self.concept!r} changes whole kernels; use `bind`, which folds them into "
                "the model's weights, or `ea-jax merge`"
            )
        return self.scaled(strength)[0]

    def require_weights(self) -> None:
        """Raises AdapterError where the edit zeroes columns: nothing in a model's weights does."""
        if self.zeroed:
            raise AdapterError(
                f"zeroing the columns of {', '.join(self.zeroed)} changes no weights: there is "
                "nothing to save, to merge or to combine; paint with a Painter"
            )

    def used_strength(self, strength: float | None = None) -> float:
        """A strength, or for None the recommended one, or 1; ValueError for NaN or Inf."""
        if strength is None:
            strength = 1.0 if self.strength is None else self.strength
        adapters.check_strength(strength)
        return strength

    def scaled(self, strength: float | None = None) -> tuple[Tree, Tree]:
        """Adapters and deltas with a strength folded in; None takes the recommended one, or 1.

        Raises:
          ValueError: a strength of NaN or Inf.
        """
        strength = self.used_strength(strength)
        lora = adapters.scaled(self.adapters, strength)
        deltas = {
            (*path, "kernel"): strength * layer["kernel"] for path, layer in walk(self.deltas)
        }
        return lora, traverse_util.unflatten_dict(deltas)

    def changes(self, strength: float | None = None) -> dict[Module, jax.Array]:
        """What is added to each layer's kernel, float32 [(L,) in, out]."""
        lora, deltas = self.scaled(strength)
        added = {path: adapters.delta(adapter) for path, adapter in walk(lora)}
        for path, layer in walk(deltas):
            added[path] = added.get(path, 0) + jnp.asarray(layer["kernel"], jnp.float32)
        return added

    @functools.cached_property
    def fingerprint(self) -> str:
        """What tells it from another edit at any strength: a hash of its arrays in memory."""
        if self.zeroed:
            return self.digest()
        return fingerprint({"adapters": self.adapters, "deltas": self.deltas})

    def digest(self) -> str:
        """Hash of its adapters and deltas as a file holds them, rounded to bfloat16."""
        if self.zeroed:
            return f"columns of {', '.join(self.zeroed)} zeroed"
        return base_hash({"adapters": self.adapters, "deltas": self.deltas})

    def check(self, weights: Tree) -> int:
        """Number of layers that it changes in this model, blocks counted one by one.

        A block whose A, B or delta is zero stands for one that isn't adapted, and isn't counted.

        Raises:
          AdapterError: it changes a layer or block that the model lacks, or one of another shape.
        """
        if self.adapters:
            adapters.check(self.adapters, weights)
        kernels = kernel_shapes(weights)
        for path, layer in walk(self.deltas):
            shape, kernel = tuple(layer["kernel"].shape), tuple(kernels.get(path, ()))
            if len(shape) == len(kernel) == 3 and shape[1:] == kernel[1:]:
                check_blocks(".".join(path), shape[0], kernel[0])
            elif shape != kernel:
                raise AdapterError(
                    f"delta of {'.'.join(path)} has shape {list(shape)}, the model's kernel "
                    f"{list(kernel) or 'does not exist'}; use it with the model it was made for"
                )
        changed = {
            (path, block)
            for tree in (self.adapters, self.deltas)
            for path, layer in walk(tree)
            for block in np.flatnonzero(_changed(layer))
        }
        return len(changed)


def bind(edit: Edit, weights: Tree, strength: float | None = None) -> tuple[Tree, Tree | None]:
    """An edit made ready for a model: the one way to use it.

    Adapters stay adapters, so that edits of the same shape run in the same program; changes of
    whole kernels are folded into new weights, which share all other leaves with the old.

    Args:
      edit: of adapters, whole kernels, or both.
      weights: the transformer's, blocks stacked or unrolled.
      strength: None takes the recommended one, or 1.
    Returns:
      Weights and `lora` for `velocity`, `Pipeline.sample` and the rest; None for no adapters.
    Raises:
      AdapterError: the edit doesn't fit the model.
      ValueError: a strength of NaN or Inf.
    """
    edit.check(weights)
    lora, deltas = edit.scaled(strength)
    if deltas:
        kernels = {path: jnp.asarray(layer["kernel"]) for path, layer in walk(deltas)}
        weights = adapters.add(weights, kernels)
    return weights, lora or None


def zeroed(words: Sequence[str]) -> Edit:
    """No change of weights: the painter zeroes the words' columns; see `Edit`."""
    return Edit(zeroed=tuple(words), concept=", ".join(words), method="zeroed_columns")


def save(edit: Edit, folder: str | Path) -> Path:
    """Writes an edit in bfloat16, alpha folded in, in diffusers' layout.

    Returns:
      The file: `LORA_FILE`, or `DELTA_FILE` for an edit that changes whole kernels.
    Raises:
      AdapterError: it zeroes columns.
      OSError: it can't be written; a file of that name stays as it was.
    """
    edit.require_weights()
    facts = {key: getattr(edit, name) for name, key in FACTS.items()}
    metadata = {"format": "pt", **edit.more}
    metadata |= {key: value for key, value in facts.items() if value is not None}
    if edit.parts:
        metadata[PARTS] = json.dumps([dataclasses.asdict(part) for part in edit.parts])
    if edit.strength is not None:
        metadata[STRENGTH] = repr(float(edit.strength))
    path = Path(folder) / (DELTA_FILE if edit.deltas else LORA_FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    convert.peft.write(path, edit.adapters, edit.deltas, metadata)
    return path


def load(source: str | Path) -> Edit:
    """Reads an edit: our own, or a LoRA for FLUX in diffusers' or PEFT's layout.

    Whether it fits a model is seen when it is used, or by `check`.

    Args:
      source: a file, or a folder that holds `LORA_FILE` or `DELTA_FILE`.
    Raises:
      WeightsError: no such file, or one that holds no complete LoRA; names tensor and file.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        there = [path / name for name in (LORA_FILE, DELTA_FILE) if (path / name).is_file()]
        if len(there) != 1:
            has = " and ".join(file.name for file in there) or f"no {LORA_FILE}"
            raise WeightsError(f"{path} holds {has}; give the file itself")
        path = there[0]
    lora, deltas, metadata = convert.peft.read(path)
    facts: Any = {name: metadata.pop(key, None) for name, key in FACTS.items()}
    strength = number(metadata.pop(STRENGTH, None), path)
    parts = origins_of(metadata.pop(PARTS, None), path)
    return Edit(lora, deltas, strength=strength, parts=parts, more=metadata, **facts)


def summed(edits: Sequence[Edit], strengths: Sequence[float] | None = None) -> Edit:
    """All edits at once, added up: Eq. 12 with W_i = 1. Exact; ranks add up.

    Args:
      edits: of the same base.
      strengths: of each; None takes the recommended ones. Folded in: the result has strength 1.
    Raises:
      ValueError: none given, another number of strengths, edits of different bases, or edits
        that don't fit the same layers.
    """
    return _weighted(edits, strengths, 1.0)


def averaged(edits: Sequence[Edit], strengths: Sequence[float] | None = None) -> Edit:
    """The mean of edits: Eq. 12 with W_i = 1 / N. Arguments and errors as `summed`.

    Each concept is left with 1 / N of its change: from ten on, little of it remains.
    """
    return _weighted(edits, strengths, 1 / max(len(edits), 1))


def _weighted(edits: Sequence[Edit], strengths: Sequence[float] | None, weight: float) -> Edit:
    if not edits:
        raise ValueError("there is no edit to combine; give at least one")
    for edit in edits:
        edit.require_weights()
    if strengths is not None and len(strengths) != len(edits):
        raise ValueError(f"{len(strengths)} strengths for {len(edits)} edits; give one for each")
    bases = {edit.base for edit in edits if edit.base is not None}
    if len(bases) > 1:
        raise ValueError(
            f"the edits were made on different models, {sorted(bases)}; combine edits of one base"
        )
    given = [None] * len(edits) if strengths is None else list(strengths)
    used = list(zip(edits, given, strict=True))
    parts = _equally_deep([edit.scaled(strength) for edit, strength in used])
    low_rank = [adapters.scaled(lora, weight) for lora, _ in parts if lora]
    deltas: dict[Module, Any] = {}
    for _, changes in parts:
        for path, layer in walk(changes):
            kernel = (*path, "kernel")
            deltas[kernel] = deltas.get(kernel, 0) + weight * layer["kernel"]
    return Edit(
        adapters.concatenate(low_rank) if low_rank else {},
        traverse_util.unflatten_dict(deltas),
        base=next(iter(bases), None),
        concept=_joined(edit.concept for edit in edits),
        preset=_joined(edit.preset for edit in edits),
        method=_joined(edit.method for edit in edits),
        strength=1.0,
        parts=tuple(
            origin
            for edit, strength in used
            for origin in edit.origins(weight * edit.used_strength(strength))
        ),
    )


def _equally_deep(parts: Sequence[tuple[Tree, Tree]]) -> list[tuple[Tree, Tree]]:
    """Adapters and deltas with as many blocks of a layer as any of them has."""
    depths: dict[Module, int] = {}
    for path, layer in (found for part in parts for tree in part for found in walk(tree)):
        leaf = next(iter(layer.values()))
        depths[path] = max(depths.get(path, 0), len(leaf) if leaf.ndim == 3 else 0)

    def deep(tree: Tree) -> Tree:
        found = {
            path: padded(layer, depths[path]) if depths[path] else layer
            for path, layer in walk(tree)
        }
        return traverse_util.unflatten_dict(found)

    return [(deep(lora), deep(deltas)) for lora, deltas in parts]


def _changed(layer: Tree) -> np.ndarray:
    """Which blocks an adapter or a delta changes, bool [L] or []; A B changes none if one is 0."""
    return np.all([np.any(leaf, axis=(-2, -1)) for leaf in layer.values()], axis=0)


def _joined(names: Any) -> str | None:
    return ", ".join(dict.fromkeys(name for name in names if name is not None)) or None
