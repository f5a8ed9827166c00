"""Safetensors files: headers checked before use, tensors read and written one at a time.

The safetensors library checks a header. The data is read here, because a memory map keeps every
page that was touched: a tensor, or a range of its rows, is read into its own array and nothing else
of the file stays in memory.
Format: https://github.com/huggingface/safetensors (little-endian length, JSON header, data).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from convert import kinds
from convert.disk import FileError, draft

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
}
# The library sorts by dtype first (its own order), then by name.
_WRITE_ORDER = ["I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8", "BOOL"]
_CODES = {_DTYPES[code]: code for code in _WRITE_ORDER}
_MAX_HEADER_BYTES = 100_000_000
# Bits of the smallest positive number of each width that is NaN or Inf; the others follow it.
_NOT_FINITE = {
    "F64": 0x7FF << 52,
    "F32": 0xFF << 23,
    "F16": 0x7C00,
    "BF16": 0x7F80,
    "F8_E4M3": 0x7F,
    "F8_E5M2": 0x7C,
}
# Numbers looked at a time: few enough to stay in a core's cache.
_CHUNK = 1 << 16


class WeightsError(FileError):
    """Files that do not hold the weights that were asked for. One line: what, and the way out."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where one tensor lies.

    Attributes:
      file: the safetensors file.
      code: dtype as the file names it, e.g. `BF16`.
      shape: shape of the whole tensor.
      offset: first byte of its data, from the start of the file.
    """

    file: Path
    code: str
    shape: tuple[int, ...]
    offset: int

    @property
    def dtype(self) -> np.dtype:
        """As NumPy has it; WeightsError if it hasn't."""
        if self.code not in _DTYPES:
            raise WeightsError(
                f"{self.file} stores {self.code}, which is not supported; use a file in "
                "float32, bfloat16 or float16"
            )
        return _DTYPES[self.code]


def header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Reads and checks the header of one safetensors file, as the safetensors library does.

    Returns:
      {tensor name: place}, and the file's metadata.
    Raises:
      WeightsError: no such file, not a safetensors file, cut off, a header that the library
        refuses, or a tensor named twice.
      OSError: the file can't be read.
    """
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; give the file in it")
    if not path.is_file():
        raise WeightsError(f"{path} does not exist; download or export it again")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= _MAX_HEADER_BYTES:
            raise WeightsError(f"{path} {kinds.of_start(path)}")
        if 8 + length > size:
            raise WeightsError(f"{path} is cut off inside its header; download it again")
        text = file.read(length)
    try:
        fields = json.loads(text, object_pairs_hook=_no_duplicates(path))
    except WeightsError:
        raise
    # A number of thousands of digits is a plain ValueError.
    except (ValueError, RecursionError) as error:
        raise _refused(path, str(error)) from None
    try:
        with safetensors.safe_open(str(path), framework="numpy"):
            pass
    except safetensors.SafetensorError as error:
        said = " ".join(str(error).removeprefix("Error while deserializing header: ").split())
        raise _fault(path, fields, 8 + length, said) or _refused(path, said) from None
    metadata = fields.pop("__metadata__", None) or {}
    stored = {
        name: Stored(
            path, field["dtype"], tuple(field["shape"]), 8 + length + field["data_offsets"][0]
        )
        for name, field in fields.items()
    }
    return stored, metadata


def headers(paths: Iterable[Path]) -> dict[str, Stored]:
    """Joins the tensors of several files.

    Raises:
      WeightsError: as `header`, or a tensor that two files hold.
    """
    joined: dict[str, Stored] = {}
    for path in paths:
        for name, place in header(path)[0].items():
            if name in joined:
                raise WeightsError(
                    f"duplicate tensor {name!r}: in {joined[name].file.name} and in {path.name} "
                    f"of {path.parent}; remove the file that does not belong there"
                )
            joined[name] = place
    return joined


def read(place: Stored, rows: tuple[int, int] | None = None) -> np.ndarray:
    """Reads one tensor, or a range of its first axis, and nothing else of the file.

    Args:
      place: from `header`.
      rows: start and stop on the first axis; None reads all.
    Raises:
      WeightsError: a dtype that NumPy can't hold, or data cut off since `header` looked.
    """
    shape, offset, dtype = place.shape, place.offset, place.dtype
    if rows is not None:
        offset += rows[0] * math.prod(shape[1:]) * dtype.itemsize
        shape = (rows[1] - rows[0], *shape[1:])
    array = np.empty(shape, dtype)
    with place.file.open("rb", buffering=0) as file:
        file.seek(offset)
        view, done = array.reshape(-1).view(np.uint8).data, 0
        while done < len(view):
            got = file.readinto(view[done:])
            if not got:
                raise WeightsError(f"{place.file} is cut off; download it again")
            done += got
    return array


def read_finite(name: str, place: Stored, rows: tuple[int, int] | None = None) -> np.ndarray:
    """`read` of a model's weights, by name; as well a WeightsError where one is NaN or Inf."""
    array = read(place, rows)
    if not is_finite(array):
        raise WeightsError(
            f"tensor {name!r} in {place.file} holds NaN or Inf; download or export the file again"
        )
    return array


def is_finite(array: np.ndarray) -> bool:
    """Whether no number of a contiguous array is NaN or Inf; True of whole numbers.

    Looks at the bits, because NumPy's own test casts bfloat16 and writes an array of truths.
    """
    code = next((code for code, dtype in _DTYPES.items() if dtype == array.dtype), None)
    if code not in _NOT_FINITE:
        return True
    flat, size, first = array.reshape(-1), array.dtype.itemsize, _NOT_FINITE[code]
    signed, unsigned, sign = flat.view(f"i{size}"), flat.view(f"u{size}"), 1 << (8 * size - 1)
    # Read as whole numbers, the positive ones that are not finite are the largest signed numbers,
    # the negative ones the largest unsigned numbers.
    return all(
        signed[start : start + _CHUNK].max() < first
        and unsigned[start : start + _CHUNK].max() < sign + first
        for start in range(0, array.size, _CHUNK)
    )


def write(
    path: Path,
    specs: Mapping[str, Any],
    fetch: Callable[[str], np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Writes a safetensors file tensor by tensor; the name appears once the file is complete.

    The bytes are those of the safetensors library for the same tensors (its order, its header),
    with the metadata's keys sorted.

    Args:
      path: file to write.
      specs: {name: anything with `shape` and `dtype`}.
      fetch: returns a tensor of that shape and dtype by name; called once each, in file order.
      metadata: strings to store in the header.
    Raises:
      OSError: the file can't be written (disk full, ...). What was at `path` is untouched.
    """
    names = sorted(specs, key=lambda name: (_WRITE_ORDER.index(_code(specs[name].dtype)), name))
    fields: dict[str, Any] = {}
    if metadata:
        fields["__metadata__"] = dict(sorted(metadata.items()))
    end = 0
    for name in names:
        dtype = np.dtype(specs[name].dtype)
        start, end = end, end + math.prod(specs[name].shape) * dtype.itemsize
        fields[name] = {
            "dtype": _code(dtype),
            "shape": list(specs[name].shape),
            "data_offsets": [start, end],
        }
    head = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    with draft(path) as unfinished, unfinished.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in names:
            array = np.asarray(fetch(name), order="C")
            if array.shape != tuple(specs[name].shape) or array.dtype != specs[name].dtype:
                raise ValueError(
                    f"tensor {name!r} is {array.dtype}{array.shape}, announced as "
                    f"{np.dtype(specs[name].dtype)}{tuple(specs[name].shape)}"
                )
            file.write(array.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """`write` for arrays that are all in memory."""
    write(path, arrays, arrays.__getitem__, metadata)


def _code(dtype: Any) -> str:
    dtype = np.dtype(dtype)
    if dtype not in _CODES:
        raise ValueError(f"dtype {dtype} can't be stored; cast to one of {sorted(_WRITE_ORDER)}")
    return _CODES[dtype]


def _no_duplicates(path: Path):
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise WeightsError(f"duplicate tensor {twice!r} in {path}; download or export it again")
        return fields

    return build


def _refused(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} is not a safetensors file ({why}); download or export it again")


def _fault(path: Path, fields: Mapping[str, Any], data: int, said: str) -> WeightsError | None:
    """The library's two commonest findings, with names and numbers; None for another one.

    Args:
      path: the file.
      fields: its parsed header, in which the library found the form of every tensor right.
      data: where the data starts.
      said: the library's words.
    """
    if not said.startswith(("invalid shape", "incomplete metadata")):
        return None
    tensors = {name: field for name, field in fields.items() if name != "__metadata__"}
    if said.startswith("invalid shape"):
        for name, field in tensors.items():
            start, stop = field["data_offsets"]
            dtype = _DTYPES.get(field["dtype"])
            if dtype and math.prod(field["shape"]) * dtype.itemsize != stop - start:
                need = math.prod(field["shape"]) * dtype.itemsize
                return WeightsError(
                    f"{path}: tensor {name!r} of shape {field['shape']} needs {need} bytes, its "
                    f"header gives it {stop - start}; download or export the file again"
                )
    size = path.stat().st_size
    promised = data + max((field["data_offsets"][1] for field in tensors.values()), default=0)
    if promised > size:
        return WeightsError(
            f"{path} is cut off: {size} bytes, its header promises {promised}; download it again"
        )
    return None
