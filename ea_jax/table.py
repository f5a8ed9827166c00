"""One table of many runs: `ea-jax table runs/*`.

Runs whose configs differ in their seed alone are averaged; the worst of them stands behind the
mean.
"""

from __future__ import annotations

import functools
import json
import logging
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from convert.disk import FileError, entry, read_json
from ea_jax.arguments import Parser
from ea_jax.evaluate.metrics import KEPT_OTHERS, LEFT_OTHERS, METRICS, Metric
from ea_jax.runtime import run_folder
from ea_jax.runtime.program import one_line_errors, start_program

RESULTS = "results.json"
_log = logging.getLogger(__name__)
_KNOWN = {metric.name: metric for metric in (*METRICS, KEPT_OTHERS, LEFT_OTHERS)}


def table(folders: Iterable[str | Path]) -> str:
    """A Markdown table of runs' results, percent: `base → mean of runs (worst run)`.

    Args:
      folders: of finished runs; of those that hold no numbers (not ended, or a model without a
        judge) a warning says that they are left out.
    Raises:
      ValueError: a folder that doesn't exist, damaged results, none with numbers, or numbers of
        two detectors.
    """
    folders = run_folder.distinct(folders)
    found = [_read(folder) for folder in folders if (folder / RESULTS).is_file()]
    measured = [run for run in found if run["detector"]]
    if not measured:
        raise ValueError(
            f"{len(found)} of {len(folders)} folders hold a {RESULTS}, none of them with numbers; "
            "give folders of runs that ended, on a model with a judge"
        )
    used = {run["folder"] for run in measured}
    for folder in folders:
        if str(folder) not in used:
            _log.warning("left out, since it holds no numbers: %s", folder)
    detectors = sorted({run["detector"] for run in measured})
    if len(detectors) > 1:
        raise ValueError(f"runs were measured by {' and '.join(detectors)}; one table has one")
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in measured:
        groups.setdefault((run["concept"], run["preset"], run["others"]), []).append(run)
    metrics = [
        metric for metric in METRICS if any(metric.name in run["erased"] for run in measured)
    ]
    names = " | ".join(metric.name for metric in metrics)
    lines = [
        f"| {detectors[0]} | preset | runs | {names} | first run |",
        "|---|---|---|" + "---|" * len(metrics) + "---|",
    ]
    for (concept, preset, _), runs in groups.items():
        cells = [_cell(metric, runs) for metric in metrics]
        row = [concept, preset, str(len(runs)), *cells, Path(runs[0]["folder"]).name]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _read(folder: Path) -> dict[str, Any]:
    """A run's results, its folder's name, and all that it may not differ in from its group."""
    path = folder / RESULTS
    rest: dict[str, Any] = {"way_out": "measure that run again"}
    results = read_json(path, **rest)
    get = functools.partial(entry, where=path, **rest)
    if results.get("detector") is not None:
        for key in ("detector", "concept", "preset", "base_model"):
            get(results, key, str)
        both = [get(results, name, dict) for name in ("base", "erased")]
        for name in {**both[0], **both[1]}:
            if name not in _KNOWN:
                raise FileError(f"{path} holds the unknown metric {name!r}; {rest['way_out']}")
            rates = [get(rates, name, dict) for rates in both]
            totals = [get(rate, "total", int) for rate in rates]
            # Of no pictures there is no percentage.
            shares = [get(rate, "percent", float) for rate in rates] if all(totals) else []
            if (
                min(totals) < 0
                or bool(totals[0]) != bool(totals[1])
                or not all(0 <= share <= 100 for share in shares)
            ):
                raise FileError(f"{path}: {name!r} has impossible numbers; {rest['way_out']}")
    config = run_folder.read_config(folder, sections=("optim", "data"))
    for section, key in (("optim", "seed"), ("data", "cache")):
        config[section].pop(key, None)
    config.pop("log", None)
    others = json.dumps([config, results.get("base_model")], sort_keys=True)
    return {"detector": None, **results, "folder": str(folder), "others": others}


def _cell(metric: Metric, runs: Sequence[dict[str, Any]]) -> str:
    name = metric.name
    asked = [run for run in runs if run["erased"].get(name, {}).get("total")]
    if not asked:
        return ""
    after = [run["erased"][name]["percent"] for run in asked]
    base = statistics.mean(run["base"][name]["percent"] for run in asked)
    return f"{base:.1f} → {statistics.mean(after):.1f} (worst {metric.worst(after):.1f})"


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser(
        "table",
        "One table of many runs; those that differ in their seed alone are averaged.",
    )
    parser.add_argument("runs", nargs="+", help="folders of finished runs")
    given = parser.parse_args(arguments)
    start_program()
    with one_line_errors():
        sys.stdout.write(table(given.runs))


if __name__ == "__main__":
    main(sys.argv[1:])
