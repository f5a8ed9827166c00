"""Folders in diffusers' layout: model_index.json, then one folder with config and weights a part.

Reads what `FluxPipeline.save_pretrained` and the FLUX.1 repositories hold (one file or shards with
an index), and writes folders that diffusers' and transformers' `from_pretrained` load.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convert import disk, files, layouts, trees
from convert.files import Stored, WeightsError

MAX_SHARD_BYTES = 10_000_000_000
_WEIGHTS = {".safetensors", ".sft", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".msgpack", ".h5"}


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a pipeline on disk.

    Attributes:
      class_name: class that config.json must name.
      stem: weights are `<stem>.safetensors`, or shards with `<stem>.safetensors.index.json`.
      layout: name table.
      prefix: put before every name when writing, tolerated when reading.
    """

    class_name: str
    stem: str
    layout: layouts.Layout
    prefix: str = ""


PARTS = {
    "transformer": Part("FluxTransformer2DModel", "diffusion_pytorch_model", layouts.TRANSFORMER),
    "vae": Part("AutoencoderKL", "diffusion_pytorch_model", layouts.VAE),
    "text_encoder": Part("CLIPTextModel", "model", layouts.CLIP, "text_model."),
    "text_encoder_2": Part("T5EncoderModel", "model", layouts.T5),
}


def read_config(folder: str | Path, part: str) -> dict[str, Any]:
    """Reads `<folder>/<part>/config.json`.

    Raises:
      WeightsError: no such file, not JSON, or the config of another model.
    """
    wanted = _part(part).class_name
    path = Path(folder) / part / "config.json"
    config = read_json(path)
    # diffusers names one class, transformers a list of architectures.
    named = config.get("_class_name") or config.get("architectures")
    if isinstance(named, list):
        named = next(iter(named), None)
    if named != wanted:
        raise WeightsError(
            f"{path} describes a {named}, not a {wanted}; give the folder of a FLUX.1 pipeline"
        )
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      WeightsError: no such file, or not a JSON object.
    """
    if not path.exists():
        raise WeightsError(
            f"{path} does not exist; give the folder of a FLUX.1 pipeline in diffusers' layout"
        )
    return disk.read_json(path, way_out="download it again", error=WeightsError)


def load(
    template: Any,
    folder: str | Path,
    part: str,
    *,
    dtype: Any = None,
    put: trees.Put | None = None,
    wanted: trees.Wanted | None = None,
) -> Any:
    """Loads the weights of one part, tensor by tensor.

    Args:
      template: nested dict of ShapeDtypeStructs, from the part's `abstract_weights`.
      folder: pipeline folder.
      part: `transformer`, `vae`, `text_encoder` or `text_encoder_2`.
      dtype: dtype of the result; None takes the template's.
      put: (path, host array) -> device array, where sharding happens; None uses the default
        device.
      wanted: (path, shape) -> slices of the leaf that `put` is to get; None is all of it.
    Returns:
      The template's tree with arrays.
    Raises:
      WeightsError: a missing, unexpected, duplicate or wrongly shaped tensor, a file that is cut
        off or absent, or a folder of another model. The message names tensor and file.
    """
    stored, layout, where = _found(folder, part)
    return trees.load(template, stored, layout, where=where, dtype=dtype, put=put, wanted=wanted)


def check(template: Any, folder: str | Path, part: str) -> None:
    """What `load` checks, from the headers alone; arguments and errors as there."""
    stored, layout, where = _found(folder, part)
    trees.check(stored, trees.plan(template, layout)[1], where)


def _found(folder: str | Path, part: str) -> tuple[dict[str, Stored], layouts.Layout, str]:
    read_config(folder, part)
    spec, where = _part(part), Path(folder) / part
    return _canonical(part, stored_in(where, spec.stem)), spec.layout, str(where)


def weight_files(folder: str | Path, part: str) -> list[Path]:
    """The files that hold a part's weights, by their names; other files beside them don't count.

    Args:
      folder, part: as for `load`.
    Raises:
      WeightsError: no weights, both one file and an index, or an index that names no files.
    """
    return _files(Path(folder) / part, _part(part).stem)[0]


def stray_files(folder: str | Path, part: str) -> list[Path]:
    """Files beside `weight_files` that hold, or list, other weights: a variant, an older save."""
    where = Path(folder) / part
    own = {*weight_files(folder, part), _index(where, _part(part).stem)}
    return [path for path in sorted(where.iterdir()) if is_weights(path) and path not in own]


def is_weights(path: Path) -> bool:
    """Whether a file holds weights, or lists them, judged by its name."""
    return path.suffix in _WEIGHTS or path.name.endswith(".index.json")


def save(
    tree: Any,
    folder: str | Path,
    part: str,
    *,
    dtype: Any,
    config: Mapping[str, Any],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes the weights of one part, tensor by tensor, and its config.json.

    Args:
      tree: nested dict of arrays.
      folder: pipeline folder; `<folder>/<part>` is made.
      part: as for `load`.
      dtype: dtype of the files.
      config: the config.json; the class is added if it names none.
      max_shard_bytes: more than this is cut into shards with an index, as diffusers does.
    Raises:
      FileExistsError: the folder holds weights already.
      WeightsError: the config of another model.
      OSError: the disk is full; a file never shows under its name before it is complete.
    """
    spec, where = _part(part), Path(folder) / part
    old = sorted(where.glob("*.safetensors*"))
    if old:
        raise FileExistsError(
            f"{where} holds weights already ({old[0].name}); delete them, or choose another folder"
        )
    key = "_class_name" if spec.stem.startswith("diffusion") else "architectures"
    named = spec.class_name if key == "_class_name" else [spec.class_name]
    config = {key: named, **config}
    if config[key] != named:
        raise WeightsError(f"config names {config[key]}, but {part} is {named}; pass its own")
    if spec.stem == "model":
        config = {**config, "dtype": np.dtype(dtype).name}
    specs, fetch = trees.tensors(tree, spec.layout, np.dtype(dtype))
    specs = {spec.prefix + name: shape for name, shape in specs.items()}
    where.mkdir(parents=True, exist_ok=True)
    shards = _shards(specs, max_shard_bytes)
    names = [
        f"{spec.stem}-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        for index in range(len(shards))
    ]
    if len(shards) == 1:
        names = [f"{spec.stem}.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        files.write(
            where / name,
            {tensor: specs[tensor] for tensor in shard},
            lambda tensor: fetch(tensor.removeprefix(spec.prefix)),
            {"format": "pt"},
        )
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(_bytes(shape) for shape in specs.values())},
            "weight_map": {
                tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard
            },
        }
        write_json(where / f"{spec.stem}.safetensors.index.json", index)
    write_json(where / "config.json", config)


def replace(tree: Any, folder: str | Path, part: str, **options: Any) -> None:
    """`save` in the place of what the folder holds of this part; a failed save leaves that.

    Args:
      tree, folder, part: as for `save`.
      options: the rest of `save`'s arguments.
    """
    folder = Path(folder)
    draft = folder / f".{part}"
    shutil.rmtree(draft, ignore_errors=True)
    save(tree, draft, part, **options)
    if (folder / part).exists():
        (folder / part).rename(draft / "old")
    (draft / part).rename(folder / part)
    shutil.rmtree(draft)


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Writes a JSON object, sorted, as diffusers does."""
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    with disk.draft(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _part(name: str) -> Part:
    if name not in PARTS:
        raise ValueError(f"part {name!r} is unknown; choose from {sorted(PARTS)}")
    return PARTS[name]


def stored_in(where: Path, stem: str) -> dict[str, Stored]:
    """The tensors of one model's folder: `<stem>.safetensors`, or the shards that its index lists.

    WeightsError: no weights, both one file and an index, or a damaged file or index.
    """
    paths, listed = _files(where, stem)
    stored = files.headers(paths)
    for name, shard in listed.items():
        if name not in stored or stored[name].file.name != shard:
            raise WeightsError(
                f"missing tensor {name!r}: {_index(where, stem)} places it in {shard}; download "
                "both again"
            )
    return stored


def _files(where: Path, stem: str) -> tuple[list[Path], dict[str, str]]:
    """The files of a part's weights, and the index's {tensor: file}, empty without an index."""
    single, index = where / f"{stem}.safetensors", _index(where, stem)
    if single.exists() and index.exists():
        raise WeightsError(
            f"{where} holds both {single.name} and {index.name}; remove the one that is out of date"
        )
    if single.exists():
        return [single], {}
    if not index.exists():
        found = sorted(path.name for path in where.glob("*") if path.name != "config.json")
        raise WeightsError(
            f"{where} has no {single.name} and no {index.name} (there: "
            f"{', '.join(found) or 'nothing'}); download it again, or save it with "
            "safe_serialization=True and no variant"
        )
    options: dict[str, Any] = {"way_out": "download it again", "error": WeightsError}
    listed = disk.entry(read_json(index), "weight_map", dict, where=index, **options)
    if not listed:
        raise WeightsError(f"{index} lists no tensors; download it again")
    for tensor in listed:
        shard = disk.entry(listed, tensor, str, where=f"{index}: weight_map", **options)
        try:
            is_name = (where / shard).parent == where
            (where / shard).is_file()
        except OSError as cause:
            raise WeightsError(
                f"{index} places {tensor!r} in {shard[:40]!r}..., which is no file's name "
                f"({cause.strerror}); download the index again"
            ) from None
        if not is_name:
            raise WeightsError(
                f"{index} places {tensor!r} in {shard!r}, which is no file beside it; put the file "
                "there, or download both again"
            )
    return [where / name for name in sorted(set(listed.values()))], listed


def _index(where: Path, stem: str) -> Path:
    return where / f"{stem}.safetensors.index.json"


def _canonical(part: str, stored: dict[str, Stored]) -> dict[str, Stored]:
    """Renames what older versions of the libraries wrote differently."""
    prefix = _part(part).prefix
    renamed = {name.removeprefix(prefix): place for name, place in stored.items()}
    if len(renamed) < len(stored):
        twice = next(
            name
            for name in stored
            if name.startswith(prefix) and name.removeprefix(prefix) in stored
        )
        raise WeightsError(
            f"duplicate tensor {twice!r}: {stored[twice].file} holds it with and without "
            f"{prefix!r}; export it again"
        )
    if part == "text_encoder":
        # A buffer, not a weight: 0..76, written by transformers before 4.31.
        renamed.pop("embeddings.position_ids", None)
    if part == "text_encoder_2":
        _untie(renamed)
    return renamed


def _untie(stored: dict[str, Stored]) -> None:
    """T5's token embedding goes by two names; either is enough, both must be the same."""
    shared, tied = "shared.weight", "encoder.embed_tokens.weight"
    if tied not in stored:
        return
    place = stored.pop(tied)
    if shared not in stored:
        stored[shared] = place
    elif not np.array_equal(files.read(place), files.read(stored[shared])):
        raise WeightsError(
            f"duplicate tensor {tied!r} in {place.file} differs from {shared!r}; export it again"
        )


def _shards(specs: Mapping[str, Any], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in specs.items():
        if shards[-1] and filled + _bytes(shape) > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += _bytes(shape)
    return shards


def _bytes(spec: Any) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
