"""LoRA files in the layout of diffusers and PEFT: `<layer>.lora_A.weight`, `<layer>.lora_B.weight`.

Layers are named as in diffusers' FluxTransformer2DModel, with `transformer.` in front. What is
written has strength 1: alpha / r is part of B, so that readers with and without a notion of alpha
agree. Reading folds in whatever alpha a file has: per-key tensors (`<layer>.alpha`), diffusers'
`lora_adapter_metadata`, or PEFT's `adapter_config.json`.

Changes of whole kernels, `<layer>.diff`, are ComfyUI's convention for what is not low-rank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from convert import files, layouts
from convert.files import Stored, WeightsError

PREFIX = "transformer."
_PEFT_PREFIX = "base_model.model."
_SETTINGS = "lora_adapter_metadata"
_ENDS = {".lora_A.weight": "A", ".lora_B.weight": "B", ".alpha": "alpha", ".diff": "diff"}
_BLOCK = re.compile(r"^((?:single_)?transformer_blocks)\.(\d+)\.(.+)$")
_NORMS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")

Module = tuple[str, ...]
Tree = dict[str, Any]


def layer_name(path: Module, index: int | None = None) -> str:
    """diffusers' name of a layer, e.g. `transformer_blocks.3.attn.to_out.0`.

    Args:
      path: of the layer in our tree.
      index: of the block, for layers in a stack.
    """
    return layouts.TRANSFORMER.module(".".join(path)).format(index)


def layer_path(name: str) -> tuple[Module, int | None]:
    """Path in our tree and block's index of a layer with diffusers' name; KeyError if unknown."""
    index = None
    if match := _BLOCK.match(name):
        name, index = f"{match[1]}.{{}}.{match[3]}", int(match[2])
    return _layers()[name], index


def read(path: str | Path) -> tuple[Tree, Tree, dict[str, str]]:
    """Reads a file of adapters, of changes of kernels, or of both.

    Args:
      path: a safetensors file, names with or without `transformer.`.
    Returns:
      Adapters {A: [(L,) in, r], B: [(L,) r, out]} with alpha / r folded into B, and changes
      {kernel: [(L,) in, out]}, both float32 at their layers' paths; the file's metadata without
      what was folded in.
    Raises:
      WeightsError: an unknown layer or kind of tensor, A without B, ranks that differ, a block
        that lacks what others have, or a file that is cut off or empty.
    """
    path = Path(path)
    stored, metadata = files.header(path)
    if not stored:
        raise WeightsError(f"{path} holds no tensors; export it again")
    settings = _settings(path, stored, metadata)
    layers = _layers_of(stored, path)
    loras: dict[Module, dict[int | None, dict[str, np.ndarray]]] = {}
    diffs: dict[Module, dict[int | None, dict[str, np.ndarray]]] = {}
    for name, places in layers.items():
        module, index = layer_path(name)
        if "diff" in places:
            kernel = _matrix(places["diff"], name).T
            diffs.setdefault(module, {})[index] = {"kernel": kernel}
        if "A" in places:
            loras.setdefault(module, {})[index] = _adapter(name, places, settings)
    kept = {key: value for key, value in metadata.items() if key != _SETTINGS}
    return _stacked(loras, path), _stacked(diffs, path), kept


def write(path: str | Path, lora: Tree, diffs: Tree, metadata: Mapping[str, str]) -> None:
    """Writes adapters and changes of kernels in bfloat16; the inverse of `read`.

    Raises:
      OSError: the file can't be written; what was at `path` is untouched.
    """
    arrays: dict[str, np.ndarray] = {}
    flat: dict[Module, Any] = dict(traverse_util.flatten_dict(lora))  # pyright: ignore
    flat |= traverse_util.flatten_dict(diffs)
    ends = {"A": "lora_A.weight", "B": "lora_B.weight", "kernel": "diff"}
    for (*module, leaf), array in flat.items():
        array = np.asarray(array)
        blocks = range(len(array)) if array.ndim == 3 else [None]
        for index in blocks:
            name = f"{PREFIX}{layer_name(tuple(module), index)}.{ends[leaf]}"
            matrix = array if index is None else array[index]
            arrays[name] = np.ascontiguousarray(matrix.T).astype(jnp.bfloat16)
    files.write_arrays(Path(path), arrays, metadata)


def _layers() -> dict[str, Module]:
    """diffusers' name of every layer with a kernel -> its path; `{}` for the block's index."""
    # Black Forest Labs' table is the one that lists every layer.
    paths = [tuple(name.split(".")) for name in layouts.BLACK_FOREST_LABS.modules]
    return {
        layouts.TRANSFORMER.module(".".join(path)): path for path in paths if path[-1] not in _NORMS
    }


def _layers_of(stored: Mapping[str, Stored], path: Path) -> dict[str, dict[str, Stored]]:
    """{layer: {kind of tensor: place}}, each layer known and complete."""
    known, layers, strange = _layers(), {}, []
    for key, place in stored.items():
        name = key.removeprefix(_PEFT_PREFIX).removeprefix(PREFIX)
        end = next((end for end in _ENDS if name.endswith(end)), "")
        name = name.removesuffix(end)
        if not end or _BLOCK.sub(r"\1.{}.\3", name) not in known:
            strange.append(key)
            continue
        layer = layers.setdefault(name, {})
        if _ENDS[end] in layer:
            raise WeightsError(
                f"duplicate tensor {key!r}: {path} holds it with and without {PREFIX!r}; "
                "export it again"
            )
        layer[_ENDS[end]] = place
    if strange:
        raise WeightsError(
            f"{len(strange)} of {len(stored)} tensors in {path} belong to no layer of a FLUX "
            f"transformer ({', '.join(sorted(strange)[:4])}); give a LoRA for FLUX.1's transformer "
            "in diffusers' or PEFT's layout"
        )
    for name, places in layers.items():
        if ("A" in places) != ("B" in places) or set(places) == {"alpha"}:
            has = " and ".join(sorted(places))
            raise WeightsError(
                f"{name} has {has} in {path}, but an adapter is lora_A and lora_B; export it again"
            )
    return layers


def _adapter(
    name: str, places: Mapping[str, Stored], settings: Mapping[str, Any] | None
) -> dict[str, np.ndarray]:
    a, b = _matrix(places["A"], name), _matrix(places["B"], name)
    if a.shape[0] != b.shape[1]:
        raise WeightsError(
            f"{name} has lora_A of rank {a.shape[0]} and lora_B of rank {b.shape[1]} in "
            f"{places['A'].file}; export it again"
        )
    rank, scale = a.shape[0], 1.0
    if "alpha" in places:
        alpha = files.read(places["alpha"]).astype(np.float32)
        if alpha.size != 1:
            raise WeightsError(
                f"{name}.alpha has shape {list(alpha.shape)} in {places['alpha'].file}; it has to "
                "be one number"
            )
        scale = float(alpha.reshape(())) / rank
    elif settings is not None:
        alpha = _pattern(settings.get("alpha_pattern"), name, settings["lora_alpha"])
        scale = alpha / (rank**0.5 if settings.get("use_rslora") else rank)
    return {"A": a.T, "B": b.T * np.float32(scale)}


def _pattern(pattern: Mapping[str, float] | None, name: str, otherwise: float) -> float:
    """PEFT's per-layer value: keys are regular expressions that a name ends with."""
    for key, value in (pattern or {}).items():
        if re.match(rf"^(.*\.)?({key})$", name):
            return value
    return otherwise


def _settings(
    path: Path, stored: Mapping[str, Stored], metadata: Mapping[str, str]
) -> dict[str, Any] | None:
    """The LoRA's settings, where the file or its folder says what alpha is."""
    beside = path.parent / "adapter_config.json"
    if _SETTINGS in metadata:
        where, text = f"{_SETTINGS} in {path}", metadata[_SETTINGS]
    elif any(key.startswith(_PEFT_PREFIX) for key in stored):
        if not beside.is_file():
            raise WeightsError(
                f"{path} was saved by PEFT, which keeps alpha in adapter_config.json; put that "
                "file beside it"
            )
        where, text = str(beside), beside.read_text(encoding="utf-8")
    else:
        return None
    try:
        fields = json.loads(text)
        settings = {key.removeprefix(PREFIX): value for key, value in fields.items()}
        float(settings["lora_alpha"])
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{where} names no lora_alpha ({error}); export it again") from None
    if settings.get("use_dora") or settings.get("lora_bias"):
        raise WeightsError(f"{where}: DoRA and biases are not supported; use a plain LoRA")
    return settings


def _matrix(place: Stored, name: str) -> np.ndarray:
    if len(place.shape) != 2 or place.code not in ("F64", "F32", "F16", "BF16"):
        raise WeightsError(
            f"{name} in {place.file} holds a {place.code} tensor of shape {list(place.shape)}; "
            "it has to be a matrix of floating-point numbers"
        )
    return files.read(place).astype(np.float32)


def _stacked(layers: Mapping[Module, Mapping[int | None, Tree]], path: Path) -> Tree:
    """Stacks numbered blocks on a leading axis."""
    tree = {}
    for module, blocks in layers.items():
        if None in blocks:
            tree |= {(*module, leaf): array for leaf, array in blocks[None].items()}
            continue
        indices = [index for index in blocks if index is not None]
        gaps = sorted(set(range(max(indices))) - set(indices))
        if gaps:
            raise WeightsError(
                f"{path} has nothing for {layer_name(module, gaps[0])}, though it adapts other "
                "blocks; a LoRA has to be on all blocks of a kind, or on none"
            )
        for leaf in blocks[0]:
            arrays = [blocks[index][leaf] for index in sorted(indices)]
            shapes = {array.shape for array in arrays}
            if len(shapes) > 1:
                raise WeightsError(
                    f"{path}: {leaf} of {layer_name(module, '*')} has shapes {sorted(shapes)}; "  # pyright: ignore
                    "all blocks need the same rank and widths"
                )
            tree[*module, leaf] = np.stack(arrays)
    return traverse_util.unflatten_dict(tree)
