"""One HTML page of runs, attacks on them and tasks of the exam: is it really gone?

ea-jax evaluate report runs/cat-tiny out/attacks --out report.html

The page is one file that needs no network, and can be sent to anyone.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from convert.disk import require_writable
from ea_jax.arguments import Parser, text
from ea_jax.exam.page import content, folders
from ea_jax.runtime.program import one_line_errors, start_program
from ea_jax.runtime.run_folder import write_text

log = logging.getLogger(__name__)


def report(given: Iterable[str | Path], out: str | Path) -> Path:
    """Writes the page.

    Args:
      given: folders of finished runs, of attacks, and of tasks, in the page's order.
      out: the HTML file.
    Raises:
      ValueError: a folder that is absent, given twice, unfinished or damaged; names the file.
      OSError: the page can't be written.
    """
    given, out = list(given), Path(out)
    require_writable(out)
    words = ["ea-jax", "evaluate", "report", *map(str, given), "--out", str(out)]
    page = content.page(folders.read(given), command=shlex.join(words))
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    return out


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate report", "One HTML page of runs, attacks on them, and tasks.")
    parser.add_argument("folders", nargs="+", help="of finished runs, attacks and tasks")
    parser.add("--out", rule=text, default="report.html", help="HTML file to write")
    given = parser.parse_args(arguments)
    start_program()
    with one_line_errors():
        log.info("%s", report(given.folders, given.out))


if __name__ == "__main__":
    main(sys.argv[1:])
