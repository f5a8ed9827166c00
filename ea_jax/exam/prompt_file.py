"""Prompts with seeds from a file: I2P, COCO captions, or a user's own.

The header names a column `prompt`, and may name one of seeds (`sd_seed` as in I2P,
`evaluation_seed` as in copies of it that papers use, or `seed`) and one of `case_number`.
Without seeds a row's seed is its place in the file, from 0 on. Other columns are not read: I2P's
guidance is Stable Diffusion's, FLUX has another.
A file whose name ends in `.txt` has a prompt a line, and no header.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from convert.disk import FileError
from ea_jax.exam import csv_file

PROMPT, CASE = "prompt", "case_number"
SEEDS = ("evaluation_seed", "sd_seed", "seed")
_LARGEST = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a file.

    Attributes:
      line: that it begins on; a header's is 1.
      prompt: as it stands there, spaces and all.
      seed: 0 to 2**32 - 1.
      case: its `case_number`, or "".
    """

    line: int
    prompt: str
    seed: int
    case: str = ""


def read_rows(path: str | Path) -> list[Row]:
    """All rows of a file.

    Two rows may ask for the same picture only where they are numbered as two cases, as I2P does.

    Raises:
      FileError: the file is absent, unreadable, not UTF-8, no CSV, has no row, no prompts, an empty
        prompt, a seed that is none, or the same row twice; names the line and the value.
    """
    path = Path(path)
    if path.suffix.lower() == ".txt":
        return _lines(csv_file.text(path, PROMPT, of="prompts"))
    found = []
    for line, values in csv_file.rows(path, PROMPT, of="prompts"):
        if not values[PROMPT].strip():
            raise FileError(f"{path}, line {line}: the prompt is {values[PROMPT]!r}; write one")
        seeds = next((name for name in SEEDS if name in values), None)
        where = f"{path}, line {line}: {seeds}"
        seed = len(found) if seeds is None else _seed(values[seeds], where)
        found.append(Row(line, values[PROMPT], seed, values.get(CASE, "")))
    if not found:
        raise FileError(f"{path} has no rows below its header; add a row for each picture")
    _require_distinct(path, found)
    return found


def repeated(rows: Sequence[Row]) -> int:
    """Rows that ask for a picture that an earlier one asks for."""
    return len(rows) - len({(row.prompt, row.seed) for row in rows})


def _lines(text: str) -> list[Row]:
    """A row for each line that isn't empty."""
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    return [Row(line, prompt, seed) for seed, (line, prompt) in enumerate(lines)]


def _seed(value: str, where: str) -> int:
    # No int(): that takes "1_000" and other alphabets' digits, too.
    text = value.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > _LARGEST:
        raise FileError(f"{where} is {value!r}; a seed is a whole number from 0 to {_LARGEST}")
    return int(text)


def _require_distinct(path: Path, rows: Sequence[Row]) -> None:
    first: dict[tuple[str, int, str], Row] = {}
    for row in rows:
        earlier = first.setdefault((row.prompt, row.seed, row.case), row)
        if earlier is not row:
            raise FileError(
                f"{path}, line {row.line}: {row.prompt[:60]!r} with seed {row.seed} stands on line "
                f"{earlier.line} as well, and would be the same picture; give it another seed, or "
                f"number both in a column {CASE!r}"
            )
