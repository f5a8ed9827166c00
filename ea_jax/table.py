"""One table of many runs: `python -m ea_jax.table runs/*`.

Runs whose configs differ in their seed alone are averaged; the worst of them stands behind the
mean.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import app

from ea_jax.evaluate.probes import METRICS
from ea_jax.runtime import run_folder
from ea_jax.runtime.program import one_line_errors

RESULTS = "results.json"
# Where less is better.
_ERASED = ("Acc_e", "Acc_g")


def table(folders: Iterable[str | Path]) -> str:
    """A Markdown table of runs' results, percent: `base > mean of runs (worst run)`.

    Args:
      folders: of finished runs; those without results.json are left out.
    Raises:
      ValueError: none of them was measured, or two detectors measured them.
    """
    found = [_read(Path(folder)) for folder in folders if (Path(folder) / RESULTS).is_file()]
    measured = [run for run in found if run["detector"]]
    if not measured:
        raise ValueError(
            f"{len(found)} of the folders hold a results.json, none of them with numbers; give "
            "folders of runs that ended, on a model with a judge"
        )
    detectors = sorted({run["detector"] for run in measured})
    if len(detectors) > 1:
        raise ValueError(f"runs were measured by {' and '.join(detectors)}; one table has one")
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in measured:
        groups.setdefault((run["concept"], run["preset"], run["others"]), []).append(run)
    lines = [
        f"| {detectors[0]} | preset | runs | {' | '.join(METRICS)} | first run |",
        "|---|---|---|" + "---|" * len(METRICS) + "---|",
    ]
    for (concept, preset, _), runs in groups.items():
        cells = [_cell(metric, runs) for metric in METRICS]
        row = [concept, preset, str(len(runs)), *cells, runs[0]["folder"]]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _read(folder: Path) -> dict[str, Any]:
    """A run's results, its folder's name, and all that it may not differ in from its group."""
    results = json.loads((folder / RESULTS).read_text("utf-8"))
    config = json.loads((folder / run_folder.CONFIG).read_text("utf-8"))
    for section, key in (("optim", "seed"), ("data", "cache")):
        config.get(section, {}).pop(key, None)
    config.pop("log", None)
    others = json.dumps([config, results["base_model"]], sort_keys=True)
    return {**results, "folder": folder.name, "others": others}


def _cell(metric: str, runs: Sequence[dict[str, Any]]) -> str:
    asked = [run for run in runs if run["erased"][metric]["total"]]
    if not asked:
        return ""
    after = [run["erased"][metric]["percent"] for run in asked]
    base = statistics.mean(run["base"][metric]["percent"] for run in asked)
    worst = max(after) if metric in _ERASED else min(after)
    return f"{base:.1f} > {statistics.mean(after):.1f} ({worst:.1f})"


def main(arguments: list[str]) -> None:
    with one_line_errors():
        sys.stdout.write(table(arguments[1:]))


if __name__ == "__main__":
    app.run(main)
