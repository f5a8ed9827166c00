"""Files that spare work the next time. A cache is a help: one that fails stops no run."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convert.disk import FileError
from ea_jax.runtime.run_folder import write_json

_log = logging.getLogger(__name__)


def cache_file(cache: str | Path, kind: str, inputs: Any, suffix: str) -> Path:
    """The file of a cache, named by all that its content is made from (of what JSON can hold)."""
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return Path(cache) / f"{kind}-{digest[:24]}{suffix}"


def keep(path: Path, write: Callable[[Path], Any]) -> bool:
    """Writes a cache's file, and makes its folder if need be.

    Args:
      path: the file.
      write: given the path, writes it as a whole or not at all.
    Returns:
      Whether it was written. If not there is a warning, one for each folder and cause.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except OSError as error:
        # The writer's own words are about one file.
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        reason = "it is a file" if path.parent.is_file() else cause.strerror or str(cause)
        _warn(path.parent, reason)
        return False
    return True


def is_writable(folder: Path) -> bool:
    """Whether a folder of a cache can be made and written to; if not, there is a warning."""
    probe = folder / f".probe-{secrets.token_hex(8)}"
    written = keep(probe, lambda path: path.write_bytes(b"0"))
    with contextlib.suppress(OSError):
        probe.unlink()
    return written


def keep_json(path: Path, value: Any) -> None:
    """Writes a value of what JSON can hold to a cache's file, with a checksum."""
    keep(path, lambda path: write_json(path, {"checksum": _checksum(value), "value": value}))


def kept_json(path: Path) -> Any:
    """What `keep_json` wrote.

    Raises:
      FileError: the file holds something else.
      OSError: it can't be read.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        value = stored["value"]
        whole = stored["checksum"] == _checksum(value)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FileError(f"damaged ({type(error).__name__}: {error})") from None
    if not whole:
        raise FileError("damaged")
    return value


@functools.cache
def _warn(folder: Path, reason: str) -> None:
    _log.warning(
        "cache %s can't be written (%s); the run goes on, and a later one makes the same again: "
        "set data.cache to another folder to avoid that",
        folder,
        reason,
    )


def _checksum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
