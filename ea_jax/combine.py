"""Combines edits into one file: `ea-jax combine --sum --lora A --lora B --out FOLDER`.

The sum does all that its parts do; of the mean of N edits, each concept is left with 1 / N of its
change.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from convert.disk import require_writable
from ea_jax import edits
from ea_jax.arguments import Parser, number, text
from ea_jax.runtime.program import one_line_errors, start_program

_log = logging.getLogger(__name__)


def combine(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    mean: bool,
    strengths: Sequence[float] | None = None,
) -> Path:
    """Writes the sum or the mean of edits.

    Args:
      sources: run folders or LoRA files.
      out: folder to write the file to; it may not hold an edit yet.
      mean: of the edits, in place of their sum.
      strengths: of each; None takes their recommended ones.
    Returns:
      The file.
    Raises:
      ValueError: fewer than two edits, one given twice, files that hold none, edits that don't go
        together, or another number of strengths than of edits.
      OSError: the file can't be written.
    """
    if len(sources) < 2:
        raise ValueError(f"{len(sources)} edits can't be combined; give --lora at least twice")
    seen: set[Path] = set()
    for source in sources:
        where = Path(source).expanduser().resolve()
        if where in seen:
            raise ValueError(f"--lora={source} is given twice; give it once, with its --strength")
        seen.add(where)
    out = Path(out)
    for name in (edits.LORA_FILE, edits.DELTA_FILE):
        if (out / name).exists():
            raise FileExistsError(f"{out / name} is there already; choose another --out")
    require_writable(out / edits.LORA_FILE)
    together = edits.averaged if mean else edits.summed
    return edits.save(together([edits.load(source) for source in sources], strengths), out)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("combine", "Combines edits of one model into one, as their sum or their mean.")
    parser.add(
        "--lora",
        rule=text,
        often=True,
        required=True,
        help="a run's folder, or a LoRA file; to be given at least twice",
    )
    parser.add(
        "--strength",
        rule=number(),
        often=True,
        help="of each --lora, in their order; the recommended ones by default",
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--sum", action="store_true", help="all edits at once")
    how.add_argument("--mean", action="store_true", help="each with its share of the change")
    parser.add("--out", rule=text, required=True, help="folder to write the file to")
    given = parser.parse_args(arguments)
    start_program()
    with one_line_errors():
        path = combine(given.lora, given.out, mean=given.mean, strengths=given.strength)
        _log.info("%s", path)


if __name__ == "__main__":
    main(sys.argv[1:])
