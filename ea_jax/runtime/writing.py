"""Files written whole or not at all, and a failing disk that says which one it was."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def reported(path: str | Path) -> Iterator[None]:
    """An OSError inside names the file that could not be written, and the way out."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or next(iter(str(error).splitlines()), type(error).__name__)
        raise OSError(
            f"{reason}; {path} was not written: free some space, or choose another folder"
        ) from error


@contextlib.contextmanager
def draft(path: str | Path) -> Iterator[Path]:
    """A file beside `path` to write to; it takes its place when the block ends without an error.

    Every draft has a name of its own: two runs may share a cache.

    Raises:
      OSError: it can't be written (disk full, ...). What was at `path` is untouched.
    """
    path = Path(path)
    with reported(path):
        unfinished = path.with_name(f".{path.name}-{secrets.token_hex(8)}{path.suffix}")
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
