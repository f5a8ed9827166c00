"""What a task leaves in its folder: results.json, results.md, contact sheets.

`results.json` says how each number was made: protocol, prompts and seeds with their hash, versions,
numerators, denominators and intervals, and what was read in each picture.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from convert.disk import draft, require_writable
from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.outputs import versions
from ea_jax.evaluate.probes import Detector, Probe, Reading
from ea_jax.exam.model import Subject
from ea_jax.painter import Painter
from ea_jax.runtime import run_folder
from ea_jax.runtime.run_folder import write_json, write_text

RESULTS = "results.json"
_WRAP = 24  # letters in a line of a heading


def claim(out: str | Path, task: str, protocol: Mapping[str, Any]) -> Path:
    """Takes a task's folder, or finds that the same task took it before; see `run_folder.claim`.

    With another `batch`, or other `versions` of packages, it is still the same task: a killed one
    may go on in less memory, or on another machine. Its results say what it ended with.

    Raises:
      ForeignRunError: the folder is another task's, or this one's under another protocol.
      OSError: it can't be written to.
    """
    out = Path(out)
    require_writable(out / run_folder.CONFIG)
    run_folder.claim(out, {"task": task, **protocol}, may_differ=("batch", "versions"))
    return out


def asked(given: argparse.Namespace) -> dict[str, Any]:
    """What a task's folder is claimed for: a command's arguments, but not where it runs."""
    aside = ("out", "cache", "batch", "tensor")
    return {name: value for name, value in vars(given).items() if name not in aside}


def protocol_of(
    painter: Painter, subjects: Sequence[Subject], detectors: Sequence[Detector] = ()
) -> dict[str, Any]:
    """How the pictures were made and by whom they were read."""
    return {
        "base_model": painter.fingerprint,
        **painter.facts(),
        "batch": painter.sampling.batch,
        "text_length": painter.text_length,
        "edits": {
            subject.name: {
                "source": subject.source,
                "digest": subject.edit.digest(),
                "strength": subject.edit.used_strength(subject.strength),
                "concept": subject.edit.concept,
                "method": subject.edit.method,
                "preset": subject.edit.preset,
            }
            for subject in subjects
            if subject.edit is not None
        },
        "detectors": {detector.name: detector.version for detector in detectors},
        "versions": versions(),
    }


def pictures_of(
    probes: Sequence[Probe], readings: Mapping[str, Sequence[Reading | None]]
) -> dict[str, Any]:
    """Prompts, seeds, their hash, and each picture's readings by subject; None was not painted."""
    asked = [[probe.prompt, probe.seed] for probe in probes]
    return {
        "hash": hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16],
        "pictures": [
            {
                "prompt": probe.prompt,
                "seed": probe.seed,
                "read": {
                    name: {
                        "seen": sorted(one.seen),
                        "valid": one.valid,
                        **({"scores": dict(one.scores)} if one.scores else {}),
                    }
                    for name, read in readings.items()
                    if (one := read[i]) is not None
                },
            }
            for i, probe in enumerate(probes)
        ],
    }


def rates(table: Mapping[str, Mapping[str, Rate]]) -> dict[str, Any]:
    """Rates by row and column for results.json."""
    return {
        row: {name: rate.as_json() for name, rate in columns.items()}
        for row, columns in table.items()
    }


def write(out: Path, task: str, *, table: str, **content: Any) -> None:
    """Writes results.json, with the task's name first, and the table as results.md."""
    write_json(out / RESULTS, {"task": task, **content})
    write_text(out / "results.md", table)


def command(task: str, arguments: Sequence[str]) -> str:
    """The command line that makes a task's numbers again."""
    return shlex.join(["ea-jax", "evaluate", *task.split(), *arguments])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]]) + "\n"


def contact_sheet(
    path: Path,
    rows: Mapping[str, Sequence[np.ndarray]],
    columns: Sequence[str] = (),
    *,
    inches: tuple[float, float] = (1.5, 1.6),
) -> None:
    """Writes a PNG: a row a name, its pictures [H, W, 3] in [0, 1] side by side.

    Args:
      path: of the PNG.
      rows: pictures by the name of their row.
      columns: a heading for each column; none are written where empty.
      inches: width and height of a picture's place, at 110 pixels an inch.
    """
    width = max(len(pictures) for pictures in rows.values())
    size = inches[0] * width + 1.6, inches[1] * len(rows) + 0.4
    figure = Figure(figsize=size, dpi=110)
    axes = figure.subplots(len(rows), width, squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for column, axis in enumerate(line):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_frame_on(False)
            if column < len(pictures):
                axis.imshow(np.clip(pictures[column], 0, 1), interpolation="nearest")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8, labelpad=8)
    for axis, heading in zip(axes[0], columns, strict=False):
        axis.set_title(textwrap.fill(heading, _WRAP), fontsize=7)
    figure.tight_layout(pad=0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft(path) as unfinished:
        figure.savefig(unfinished, format="png")
