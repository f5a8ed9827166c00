"""CSV files with a header, as a user or a spreadsheet writes them, read row by row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from convert.disk import FileError


def rows(path: str | Path, column: str, *, of: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row's first line, the header's being 1, and its values by column.

    Args:
      path: of the file; UTF-8.
      column: that it has to have.
      of: what the file holds, for errors: "prompts".
    Raises:
      FileError: the file is absent, unreadable, not UTF-8, no CSV, lacks the column or has one
        twice, or has a row of another length; names the line.
    """
    path = Path(path)
    records = _records(path, text(path, column, of=of))
    _, header = next(records, (1, []))
    columns = [name.strip() for name in header]
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice is not None:
        raise FileError(f"{path} has two columns {twice!r}; leave one")
    if column not in columns:
        named = ", ".join(map(repr, columns[:20])) or "none"
        raise FileError(f"{path} has no column {column!r} (its columns: {named}); add one")
    for line, fields in records:
        if len(fields) != len(columns):
            raise FileError(
                f"{path}, line {line}, has {len(fields)} values for {len(columns)} columns; put "
                f'{of} with commas in quotes: "one, two"'
            )
        yield line, dict(zip(columns, fields, strict=True))


def text(path: Path, column: str, *, of: str) -> str:
    """A file's text; arguments and errors as for `rows`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FileError(f"{path} does not exist; give a CSV file of {of}") from None
    except OSError as cause:
        reason = cause.strerror or cause
        raise FileError(f"{path} can't be read ({reason}); give a CSV file of {of}") from None
    try:
        # Spreadsheets begin a file with a byte order mark.
        found = content.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        line = content.count(b"\n", 0, cause.start) + 1
        raise FileError(
            f"{path}, line {line}: byte 0x{content[cause.start]:02x} is not UTF-8; save the file "
            "as UTF-8"
        ) from None
    if not found.strip():
        raise FileError(f"{path} is empty; give a CSV file with a column {column!r}")
    return found


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Each record and the line that it begins on; without empty lines."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    before = 0
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as cause:
            raise FileError(f"{path}, line {before + 1}: {cause}; mend its quotes") from None
        if fields is None:
            return
        if fields:
            yield before + 1, fields
        before = reader.line_num
