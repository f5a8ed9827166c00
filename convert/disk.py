"""Files read and written as a whole; errors name the file, the true cause and the way out."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOT_A_FOLDER = (errno.ENOTDIR, errno.EEXIST)
_KINDS: dict[Any, str] = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


class FileError(ValueError):
    """A file that is absent, damaged, or of another kind. One line: which, why, and the way out."""


@contextlib.contextmanager
def reported(path: str | Path) -> Iterator[None]:
    """An OSError inside names the file that could not be written, the cause and the way out."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or next(iter(str(error).splitlines()), type(error).__name__)
        told = f"{reason}; {path} was not written: {_way_out(error, Path(path))}"
        raise OSError(told) from error


@contextlib.contextmanager
def draft(path: str | Path) -> Iterator[Path]:
    """A file beside `path` to write to; it takes its place when the block ends without an error.

    Every draft has a name of its own: two runs may share a cache.

    Raises:
      OSError: it can't be written (disk full, ...). What was at `path` is untouched.
    """
    path = Path(path)
    with reported(path):
        unfinished = _draft_of(path)
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            # Where the folder can't be written to, there is nothing to remove either.
            with contextlib.suppress(OSError):
                unfinished.unlink()


def shown(paths: Iterable[Path]) -> list[Path]:
    """Paths in order, without hidden ones: drafts that a kill left, and what macOS leaves."""
    return sorted(path for path in paths if not path.name.startswith("."))


def require_writable(path: str | Path) -> None:
    """Raises OSError where a file can't be written, before the work that would be lost.

    Args:
      path: of the file; it and the folders above it may be absent.
    """
    path = Path(path)
    with reported(path):
        there = next(above for above in (path, *path.absolute().parents) if above.exists())
        if there == path and path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if there == path:
            there = path.absolute().parent
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        # Its draft has a longer name, and is made in its folder.
        if len(_draft_of(path).name.encode()) > os.pathconf(there, "PC_NAME_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if not os.access(there, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def read_json(
    path: str | Path,
    *,
    kind: type = dict,
    way_out: str,
    error: type[FileError] = FileError,
) -> Any:
    """Reads a JSON file whose outermost value is of a kind.

    Args:
      path: the file.
      kind: `dict` or `list`.
      way_out: what a user does about a file that won't do: "download it again".
      error: class to raise.
    Raises:
      FileError: the file is absent, unreadable, no JSON, or holds another kind of value.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(f"{path} does not exist; {way_out}") from None
    except OSError as cause:
        raise error(f"{path} can't be read ({cause.strerror or cause}); {way_out}") from None
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not JSON ({cause}); {way_out}") from None
    return parse_json(text, str(path), kind=kind, way_out=way_out, error=error)


def parse_json(
    text: str | bytes,
    where: str,
    *,
    kind: type = dict,
    way_out: str,
    error: type[FileError] = FileError,
) -> Any:
    """Parses JSON text; arguments and errors as `read_json`, `where` names the text."""
    try:
        value = json.loads(text)
    # RecursionError: a thousand brackets.
    except (ValueError, RecursionError) as cause:
        raise error(f"{where} is not JSON ({cause}); {way_out}") from None
    if not isinstance(value, kind):
        raise error(f"{where} holds {_said(value)}, not {_KINDS[kind]}; {way_out}")
    return value


def entry(
    fields: Mapping[str, Any],
    key: str,
    kind: type,
    *,
    where: str | Path,
    way_out: str,
    error: type[FileError] = FileError,
) -> Any:
    """One value of a JSON object that was read, of the kind that it has to be.

    Args:
      fields: the object.
      key: of the value.
      kind: `dict`, `list`, `str`, `bool`, `int` or `float`; a whole number is a `float` as well.
      where: file that `fields` come from, or file and key.
      way_out: as for `read_json`.
      error: class to raise.
    Raises:
      FileError: no such key, or a value of another kind.
    """
    if key not in fields:
        raise error(f"{where} lacks {key!r}; {way_out}")
    value = fields[key]
    kinds = (int, float) if kind is float else kind
    # A bool is an int to Python, and never meant as one here.
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise error(f"{where}: {key!r} is {_said(value)}, not {_KINDS[kind]}; {way_out}")
    return value


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}-{secrets.token_hex(8)}{path.suffix}")


def _way_out(error: OSError, path: Path) -> str:
    if error.errno in _FULL:
        return "free some space, or choose another folder"
    if error.errno in _FORBIDDEN:
        return "this user may not write there; choose another folder"
    if error.errno in _NOT_A_FOLDER or error.errno == errno.EISDIR:
        file = next(
            (above for above in path.parents if above.exists() and not above.is_dir()), None
        )
        if file is not None:
            return f"{file} is a file, not a folder; choose another folder"
        if path.is_dir():
            return "that is a folder, not a file; choose another name"
    if error.errno == errno.ENAMETOOLONG:
        return "choose a shorter name"
    return "choose another folder"


def _said(value: Any) -> str:
    text = json.dumps(value)
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    named = next((said for kind, said in _KINDS.items() if type(value) is kind), "null")
    return f"{named} ({shown})" if named != "null" else "null"
