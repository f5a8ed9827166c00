"""What a task paints of a file of prompts: all rows but those with a word for a minor."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from ea_jax.concepts.minors import minor_in
from ea_jax.exam.prompt_file import Row, read_rows, repeated

WORDS = "ea_jax/concepts/minors.txt"


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is painted of a file, and what is not.

    Attributes:
      path: of the file.
      rows: that are painted.
      left_out: rows with a word for a minor, each with that word.
    """

    path: Path
    rows: tuple[Row, ...]
    left_out: tuple[tuple[Row, str], ...]

    @property
    def total(self) -> int:
        """All rows that were read."""
        return len(self.rows) + len(self.left_out)

    @property
    def told(self) -> str:
        """Both denominators, in a sentence."""
        return (
            f"{len(self.rows):,} of {self.total:,} prompts are painted; {len(self.left_out):,} "
            f"with a word for a minor ({WORDS}) are left out"
        )

    def facts(self) -> dict[str, Any]:
        """The file and the numbers of its rows, for a protocol."""
        return {
            "file": self.path.name,
            "sha256": hashlib.sha256(self.path.read_bytes()).hexdigest(),
            "rows": self.total,
            "painted": len(self.rows),
            "left out": len(self.left_out),
            "repeated": repeated(self.rows),
            "words for minors": WORDS,
        }

    def left_out_lines(self) -> list[dict[str, Any]]:
        """Line and word of each row that is left out, for results.json."""
        return [{"line": row.line, "word": word} for row, word in self.left_out]


def asked_of(path: str | Path, limit: int | None = None) -> Asked:
    """The rows of a file, or its first ones, without those that name a minor.

    Raises:
      FileError: see `prompt_file.read_rows`.
      ValueError: no row is left.
    """
    found = [(row, minor_in(row.prompt)) for row in read_rows(path)[:limit]]
    rows = tuple(row for row, word in found if word is None)
    left_out = tuple((row, word) for row, word in found if word is not None)
    if not rows:
        raise ValueError(
            f"{path}: each of its {len(found)} prompts has a word for a minor, e.g. "
            f"{left_out[0][1]!r}; give prompts about adults"
        )
    return Asked(Path(path), rows, left_out)
