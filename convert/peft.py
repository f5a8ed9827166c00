"""LoRA files: written in the layout of diffusers and PEFT, read in whatever spelling they have.

Layers that are written are named as in diffusers' FluxTransformer2DModel, with `transformer.` in
front. What is written has strength 1: alpha / r is part of B, so that readers with and without a
notion of alpha agree. Reading folds in whatever alpha a file has, see `lora_alpha`; the spellings
are in `lora_names`.

Changes of whole kernels, `<layer>.diff`, are ComfyUI's convention for what is not low-rank.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from convert import files, layouts, lora_alpha, lora_names
from convert.files import Stored, WeightsError
from convert.lora_names import Layer, Module, Target

PREFIX = "transformer."
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_log = logging.getLogger(__name__)

Tree = dict[str, Any]
# Kind of tensor (`A`, `B`, `alpha`, `diff`) -> its name in the file, its place.
Places = dict[str, tuple[str, Stored]]
# Layer in our tree -> index of a block, None outside of blocks -> its arrays.
Blocks = dict[Module, dict[int | None, Tree]]

# The axes of a leaf that belong to its layer, not to the rank.
_WIDTHS = {"A": (0,), "B": (1,), "kernel": (0, 1)}


def layer_name(path: Module, index: int | None = None) -> str:
    """diffusers' name of a layer, e.g. `transformer_blocks.3.attn.to_out.0`.

    Args:
      path: of the layer in our tree.
      index: of the block, for layers in a stack.
    """
    return layouts.TRANSFORMER.module(".".join(path)).format(index)


def read(path: str | Path) -> tuple[Tree, Tree, dict[str, str]]:
    """Reads a file of adapters, of changes of kernels, or of both.

    How many blocks the model has isn't known here: stacks end with the last block that the file
    names, and blocks without a layer that others have get zeros for it, as lower ranks do. Tensors
    of text encoders are left out, which is logged.

    Args:
      path: a safetensors file, spelled in any of the ways of `lora_names`.
    Returns:
      Adapters {A: [(L,) in, r], B: [(L,) r, out]} with alpha / r folded into B, and changes
      {kernel: [(L,) in, out]}, both float32 at their layers' paths; the file's metadata without
      what was folded in.
    Raises:
      WeightsError: an unknown layer or kind of tensor, A without B, an invalid shape or alpha,
        NaN or Inf, a LoRA that changes nothing, or a file that is cut off or empty.
    """
    path = Path(path)
    stored, metadata = files.header(path)
    if not stored:
        raise WeightsError(f"{path} holds no tensors; export it again")
    layers = _layers_of(stored, path)
    alpha = _alpha(layers, metadata, path)
    loras: Blocks = {}
    diffs: Blocks = {}
    factors = []
    for layer, places in layers.items():
        if "diff" in places:
            kernel = _matrix(places["diff"])
            parts = _cut(kernel, layer.target, kernel.shape[1], places["diff"])
            for module, part in parts.items():
                diffs.setdefault(module, {})[layer.index] = {"kernel": part.T}
        if "A" in places:
            a, b = _pair(layer, places)
            factors.append(_factor(layer, places, alpha, len(a)))
            for module, part in _cut(b, layer.target, a.shape[1], places["B"]).items():
                with np.errstate(over="ignore"):
                    scaled = _finite(part.T * np.float32(factors[-1]), places["B"])
                loras.setdefault(module, {})[layer.index] = {"A": a.T, "B": scaled}
    if factors and not any(factors) and not diffs:
        raise WeightsError(
            f"{path} has an alpha of 0 for every layer and changes nothing; export it again"
        )
    made = [layer["B"] for blocks in loras.values() for layer in blocks.values()]
    made += [layer["kernel"] for blocks in diffs.values() for layer in blocks.values()]
    if not any(array.any() for array in made):
        raise WeightsError(
            f"{path} holds nothing but zeros, as a LoRA does before it is trained; give the file "
            "of a finished training"
        )
    kept = {key: value for key, value in metadata.items() if key != lora_alpha.SETTINGS}
    return _stacked(loras, path), _stacked(diffs, path), kept


def write(path: str | Path, lora: Tree, diffs: Tree, metadata: Mapping[str, str]) -> None:
    """Writes adapters and changes of kernels in bfloat16; the inverse of `read`.

    Where ranks differ, the metadata says so to readers that expect one; see `lora_alpha.of_ranks`.

    Raises:
      OSError: the file can't be written; what was at `path` is untouched.
    """
    arrays: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    flat: dict[Module, Any] = dict(traverse_util.flatten_dict(lora))  # pyright: ignore
    flat |= traverse_util.flatten_dict(diffs)
    ends = {"A": "lora_A.weight", "B": "lora_B.weight", "kernel": "diff"}
    for (*module, leaf), array in flat.items():
        array = np.asarray(array)
        blocks = range(len(array)) if array.ndim == 3 else [None]
        for index in blocks:
            layer = layer_name(tuple(module), index)
            matrix = array if index is None else array[index]
            if leaf == "A":
                ranks[layer] = matrix.shape[1]
            arrays[f"{PREFIX}{layer}.{ends[leaf]}"] = np.ascontiguousarray(matrix.T).astype(
                jnp.bfloat16
            )
    if len(set(ranks.values())) > 1:
        metadata = {**metadata, lora_alpha.SETTINGS: lora_alpha.of_ranks(ranks)}
    files.write_arrays(Path(path), arrays, metadata)


def _layers_of(stored: Mapping[str, Stored], path: Path) -> dict[Layer, Places]:
    """The tensors of each layer; each is known, complete and there once."""
    layers: dict[Layer, Places] = {}
    owners: dict[Any, str] = {}
    strange, of_text = [], 0
    for key, place in stored.items():
        if lora_names.is_text_encoder(key):
            of_text += 1
            continue
        parsed = lora_names.parse(key)
        if parsed is None:
            strange.append(key)
            continue
        layer, kind = parsed
        for module in layer.target.modules:
            first = owners.setdefault((kind, module, layer.index), key)
            if first != key:
                raise WeightsError(
                    f"duplicate tensor {key!r}: {path} holds {layer_name(module, layer.index)} "
                    f"as {first!r} as well; export it again"
                )
        layers.setdefault(layer, {})[kind] = key, place
    if strange:
        raise lora_names.refused(strange, len(stored), path)
    if not layers:
        raise WeightsError(
            f"{of_text} of {len(stored)} tensors in {path} are for text encoders, which are not "
            "adapted; give a LoRA for FLUX.1's transformer"
        )
    if of_text:
        _log.warning("left out %d tensors for text encoders in %s", of_text, path)
    for layer, places in layers.items():
        if ("A" in places) != ("B" in places) or set(places) == {"alpha"}:
            has = " and ".join(sorted(places))
            raise WeightsError(
                f"{layer.name} has {has} in {path}, but an adapter is lora_A and lora_B; export "
                "it again"
            )
        if "A" in places:
            names = [lora_names.adapter(places[kind][0]) or "" for kind in ("A", "B")]
            if names[0] != names[1]:
                raise WeightsError(
                    f"{layer.name} has lora_A of the adapter {names[0]!r} and lora_B of the "
                    f"adapter {names[1]!r} in {path}; export one adapter alone"
                )
    return layers


def _alpha(
    layers: Mapping[Layer, Places], metadata: Mapping[str, str], path: Path
) -> lora_alpha.Settings | None:
    """The settings that hold where no tensor says what alpha is; None: alpha is the rank."""
    if settings := lora_alpha.in_metadata(metadata, path):
        return settings
    of_peft = [
        (layer, places)
        for layer, places in layers.items()
        if "A" in places and places["A"][0].startswith(lora_names.PEFT)
    ]
    # As in diffusers, which takes a file with Black Forest Labs' names without settings.
    needed = any("alpha" not in places and layer.is_diffusers for layer, places in of_peft)
    return lora_alpha.beside(path, needed=needed) if of_peft else None


def _factor(layer: Layer, places: Places, settings: lora_alpha.Settings | None, rank: int) -> float:
    """What A B of a layer is multiplied by."""
    if "alpha" not in places:
        return settings.scale(layer.name, rank) if settings else 1.0
    key, place = places["alpha"]
    alpha = files.read(place).astype(np.float32)
    if alpha.size != 1:
        raise WeightsError(
            f"{key} has shape {list(alpha.shape)} in {place.file}; it has to be one number"
        )
    return float(_finite(alpha, places["alpha"]).reshape(())) / rank


def _pair(layer: Layer, places: Places) -> tuple[np.ndarray, np.ndarray]:
    a, b = _matrix(places["A"]), _matrix(places["B"])
    if a.shape[0] != b.shape[1]:
        raise WeightsError(
            f"{layer.name} has lora_A of rank {a.shape[0]} and lora_B of rank {b.shape[1]} in "
            f"{places['A'][1].file}; export it again"
        )
    return a, b


def _matrix(found: tuple[str, Stored]) -> np.ndarray:
    key, place = found
    if len(place.shape) != 2 or place.code not in _FLOATS or 0 in place.shape:
        raise WeightsError(
            f"{key} in {place.file} is a {place.code} tensor of shape {list(place.shape)}; it has "
            "to be a matrix of floating-point numbers; export it again"
        )
    with np.errstate(over="ignore"):
        return _finite(files.read(place).astype(np.float32), found)


def _finite(array: np.ndarray, found: tuple[str, Stored]) -> np.ndarray:
    if not np.isfinite(array).all():
        key, place = found
        raise WeightsError(f"{key} in {place.file} holds NaN or Inf in float32; export it again")
    return array


def _cut(
    matrix: np.ndarray, target: Target, width: int, found: tuple[str, Stored]
) -> dict[Module, np.ndarray]:
    """The rows of a file's matrix [out, ...] that belong to each layer.

    Q, K and V are as wide as their input; what follows them in a single block, the MLP's first
    layer, has the rest.
    """
    modules, rows = target.modules, len(matrix)
    if target.swapped:
        if rows % 2:
            raise _uncut(found, "two halves")
        return {modules[0]: np.concatenate([matrix[rows // 2 :], matrix[: rows // 2]])}
    if len(modules) == 1:
        return {modules[0]: matrix}
    sizes = [width] * len(modules)
    if modules[-1][-1] == "proj_mlp":
        sizes[-1] = rows - width * 3
    if sizes[-1] < 1 or sum(sizes) != rows:
        names = ", ".join(module[-1] for module in modules)
        raise _uncut(found, f"{names} of width {width}")
    return dict(zip(modules, np.split(matrix, np.cumsum(sizes)[:-1]), strict=True))


def _uncut(found: tuple[str, Stored], parts: str) -> WeightsError:
    key, place = found
    return WeightsError(
        f"{key} in {place.file} has {place.shape[0]} rows, which can't be cut into {parts}; give a "
        "LoRA for FLUX.1's transformer"
    )


def _stacked(layers: Blocks, path: Path) -> Tree:
    """Stacks numbered blocks on a leading axis; what a block or a lower rank lacks is zero."""
    tree: dict[Module, np.ndarray] = {}
    for module, blocks in layers.items():
        if None in blocks:
            tree |= {(*module, leaf): array for leaf, array in blocks[None].items()}
            continue
        indices = [index for index in blocks if index is not None]
        for leaf, widths in _WIDTHS.items():
            arrays = {index: blocks[index][leaf] for index in indices if leaf in blocks[index]}
            shapes = {array.shape for array in arrays.values()}
            if len({tuple(shape[axis] for axis in widths) for shape in shapes}) > 1:
                every = layouts.TRANSFORMER.module(".".join(module)).format("*")
                raise WeightsError(
                    f"{path}: {leaf} of {every} has shapes {sorted(shapes)}; all blocks need the "
                    "same widths; export it again"
                )
            if arrays:
                tree[*module, leaf] = _padded(arrays)
    return traverse_util.unflatten_dict(tree)


def _padded(arrays: Mapping[int, np.ndarray]) -> np.ndarray:
    """Blocks' arrays by index, stacked; zeros where there is no block, or a smaller one."""
    full = tuple(np.max([array.shape for array in arrays.values()], axis=0))
    absent = np.zeros(full, np.float32)
    blocks = [arrays.get(index, absent) for index in range(max(arrays) + 1)]
    return np.stack(
        [np.pad(b, [(0, n - size) for n, size in zip(full, b.shape, strict=True)]) for b in blocks]
    )
