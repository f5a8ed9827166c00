"""Arrays that cost time to make, kept in a file that is known to be theirs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convert import WeightsError, files
from ea_jax.runtime.cache import cache_file, keep
from ea_jax.runtime.fingerprint import checksum
from ea_jax.runtime.hosts import all_agree
from ea_jax.runtime.metrics import NonFiniteError

Arrays = tuple[np.ndarray, ...]
_log = logging.getLogger(__name__)


def cached(
    cache: str | Path | None,
    inputs: Mapping[str, Any],
    make: Callable[[], Arrays],
    *,
    names: Sequence[str],
    kind: str,
    what: str,
) -> Arrays:
    """What `make` returns, or what it returned before for the same inputs.

    Args:
      cache: folder; None keeps nothing. A file there that is damaged is logged and made anew, and
        a folder that can't be written is logged once.
      inputs: all that the arrays are made from, of what JSON can hold.
      make: makes the arrays.
      names: theirs, in the file.
      kind: begins the file's name.
      what: the arrays are, for the log.
    Raises:
      NonFiniteError: `make` came to NaN or Inf.
    """
    if cache is None:
        return _finite(make(), what)
    path = cache_file(cache, kind, inputs, ".safetensors")
    stored = None
    try:
        if path.exists():
            stored = _read(path, inputs, names)
    # Beside the reader's own errors: a header whose JSON is whole but not what a header holds.
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s: %s; making %s again", path, error, what)
    # Making them may take all hosts.
    if all_agree(stored is not None):
        assert stored is not None
        _log.info("read %s from %s", what, path)
        return stored
    arrays = _finite(make(), what)
    metadata = {"inputs": json.dumps(inputs), "checksum": checksum(*arrays)}
    named = dict(zip(names, arrays, strict=True))
    keep(path, lambda path: files.write_arrays(path, named, metadata))
    return arrays


def _finite(arrays: Arrays, what: str) -> Arrays:
    if not all(files.is_finite(np.ascontiguousarray(array)) for array in arrays):
        raise NonFiniteError(
            f"there is NaN or Inf among {what}; check the model's weights, or set another "
            "model.dtype"
        )
    return arrays


def _read(path: Path, inputs: Mapping[str, Any], names: Sequence[str]) -> Arrays:
    """The arrays of a cache file; WeightsError unless they are whole and made of these inputs."""
    stored, metadata = files.header(path)
    if metadata.get("inputs") != json.dumps(inputs) or set(stored) != set(names):
        raise WeightsError("made of other inputs")
    arrays = tuple(files.read(stored[name]) for name in names)
    if metadata.get("checksum") != checksum(*arrays):
        raise WeightsError("damaged")
    return arrays
