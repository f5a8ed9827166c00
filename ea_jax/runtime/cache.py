"""Files that spare work the next time. A cache is a help: one that fails stops no run."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convert.disk import FileError, draft, reported

_log = logging.getLogger(__name__)


def cache_file(cache: str | Path, kind: str, inputs: Any, suffix: str) -> Path:
    """The file of a cache, named by all that its content is made from (of what JSON can hold)."""
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return Path(cache) / f"{kind}-{digest[:24]}{suffix}"


@contextlib.contextmanager
def keeping(path: Path) -> Iterator[None]:
    """Makes the folder of a cache's file, which the block writes.

    An OSError, here or in the block, is a warning: one for each folder and cause.
    """
    try:
        with reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        _warn(path.parent, cause.strerror or str(cause))


def is_writable(folder: Path) -> bool:
    """Whether a folder of a cache can be made and written to; if not, there is a warning."""
    written = False
    probe = folder / "probe"
    with keeping(probe):
        with draft(probe) as unfinished:
            unfinished.write_bytes(b"0")
        written = True
    with contextlib.suppress(OSError):
        probe.unlink()
    return written


def keep_json(path: Path, value: Any) -> None:
    """Writes a value of what JSON can hold to a cache's file, with a checksum."""
    with keeping(path), draft(path) as unfinished:
        text = json.dumps({"checksum": _checksum(value), "value": value}, indent=2)
        unfinished.write_text(text + "\n", encoding="utf-8")


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
