"""Table 2 (left): how much bare skin a model paints for prompts such as I2P's, before and after.

    ea-jax evaluate nudity --model FLUX --edit runs/nudity-flux-dev --prompts i2p.csv --out out/i2p

Base and edits paint the same prompts with the same seeds. A picture is read in memory and dropped;
none is written to disk unless `--keep_images` asks for a sheet of the first few.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ea_jax.arguments import Parser, Rule, number, text
from ea_jax.detectors.nsfw import OpenNsfw
from ea_jax.detectors.nudenet import NudeNet
from ea_jax.evaluate.probes import Detector, Probe, Reading
from ea_jax.evaluate.report import pixelated
from ea_jax.exam import counting, record
from ea_jax.exam.asked import Asked, asked_of
from ea_jax.exam.model import Subject, add_arguments, open_painter, read, subjects_of
from ea_jax.exam.prompt_file import Row, repeated
from ea_jax.painter import Painter
from ea_jax.runtime import lock
from ea_jax.runtime.program import one_line_errors, start_program

TASK = "nudity"
SHEET, SHOWN = "pictures.png", 8
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Counter:
    """A detector, and how its readings are counted.

    Attributes:
      load: loads it.
      count: readings, one a picture, to what JSON can hold.
      rule: that it counts by, for a reader.
    """

    load: Callable[[], Detector]
    count: Callable[[Sequence[Reading]], dict[str, Any]]
    rule: str


COUNTERS = {
    NudeNet.name: Counter(NudeNet.load, counting.parts, counting.PARTS_RULE),
    OpenNsfw.name: Counter(OpenNsfw.load, counting.scores, counting.SCORES_RULE),
}


def evaluate(given: argparse.Namespace, command: str) -> str:
    """Paints, reads and counts; writes results.json, results.md and, if asked for, pictures.png.

    Args:
      given: the command's arguments.
      command: that they were given to, for the record.
    Returns:
      The Markdown table.
    Raises:
      ValueError: a file of prompts, an edit, a model or a folder that won't do; or the detector is
        not installed. Told before anything is painted.
    """
    asked = asked_of(given.prompts, given.limit)
    log.info(asked.told)
    counter = COUNTERS[given.detector]
    detector = counter.load()
    subjects = subjects_of(given.edit)
    with lock.held(given.out):
        painter = open_painter(given, [row.prompt for row in asked.rows], subjects)
        protocol = {
            **record.protocol_of(painter, subjects, [detector]),
            "prompts": {**asked.facts(), "limit": given.limit},
        }
        out = record.claim(given.out, TASK, protocol)
        probes = [Probe(row.prompt, row.seed, ()) for row in asked.rows]
        read_by = read(painter, probes, detector, subjects, cache=given.cache)
        if given.keep_images is not None:
            _write_sheet(out / SHEET, painter, subjects, asked.rows, given.keep_images)
        results = {name: counter.count(found) for name, found in read_by.items()}
        table = _table(detector.name, results, asked, counter.rule)
        record.write(
            out,
            TASK,
            command=command,
            table=table,
            protocol=protocol,
            rule=counter.rule,
            results=results,
            left_out=asked.left_out_lines(),
            **record.pictures_of(probes, read_by),
        )
    return table


def _table(detector: str, results: Mapping[str, Any], asked: Asked, rule: str) -> str:
    columns = [name for name, value in results["base"].items() if not _is_by_part(value)]
    rows = [
        [name, *(_cell(found[column]) for column in columns), f"{len(asked.rows):,}"]
        for name, found in results.items()
    ]
    told = [f"{asked.told}."]
    if again := repeated(asked.rows):
        told.append(
            f"{again:,} painted prompts repeat an earlier one with its seed and count again."
        )
    told += [rule, "In brackets: Wilson's 95 % interval."]
    return record.markdown([detector, *columns, "pictures"], rows) + f"\n{' '.join(told)}\n"


def _is_by_part(value: Any) -> bool:
    return isinstance(value, dict) and "interval" not in value


def _cell(value: Any) -> str:
    """A count, a mean, or a rate with its 95 % interval, in percent."""
    if isinstance(value, dict):
        low, high = value["interval"]
        return f"{value['percent']:.2f} % ({low:.2f} to {high:.2f})"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _write_sheet(
    path: Path, painter: Painter, subjects: Sequence[Subject], rows: Sequence[Row], shown: str
) -> None:
    """Paints the first pictures once more, since none was kept, and writes them side by side."""
    rows = rows[:SHOWN]
    prompts, seeds = [row.prompt for row in rows], [row.seed for row in rows]
    pictures = {
        one.name: painter.paint(prompts, seeds, edit=one.edit, strength=one.strength)
        for one in subjects
    }
    if shown == "pixelated":
        pictures = {name: pixelated(images) for name, images in pictures.items()}
    headings = [f"line {row.line}" for row in rows]
    record.contact_sheet(path, {name: list(all_) for name, all_ in pictures.items()}, headings)


def _one_of(*allowed: str) -> Rule:
    """A rule: one of some words."""

    def rule(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"is {value!r}; it has to be {' or '.join(allowed)}")
        return value

    return rule


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate nudity", "Counts the bare skin that a model paints for prompts.")
    add_arguments(parser)
    parser.add("--prompts", rule=text, required=True, help="CSV file with a column `prompt`")
    parser.add("--limit", rule=number(int, low=1), help="rows of the file; all by default")
    parser.add(
        "--detector",
        rule=_one_of(*COUNTERS),
        default=NudeNet.name,
        help=f"{' or '.join(COUNTERS)}; each is an extra",
    )
    parser.add(
        "--keep_images",
        rule=_one_of("pixelated", "plain"),
        nargs="?",
        const="pixelated",
        help=f"write the first {SHOWN} pictures; pixelated, unless `plain` is said",
    )
    given = parser.parse_args(arguments)
    start_program()
    with one_line_errors("a smaller --batch or --size"):
        log.info("%s\n%s", given.out, evaluate(given, record.command(TASK, arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
