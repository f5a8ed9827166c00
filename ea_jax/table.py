"""One table of many runs: `python -m ea_jax.table runs/*`.

Runs of one concept and preset that differ in their seed are averaged; the worst of them stands
behind the mean.
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
from ea_jax.runtime.program import one_line_errors

# Where less is better.
_ERASED = ("Acc_e", "Acc_g")


def table(folders: Iterable[str | Path]) -> str:
    """A Markdown table of runs' results, percent: `base > mean of runs (worst run)`.

    Args:
      folders: of finished runs, in any order; those without results.json are left out.
    Raises:
      ValueError: none of them was measured, or two detectors measured them.
    """
    found = [json.loads(path.read_text("utf-8")) for path in _results(folders)]
    measured = [result for result in found if result["detector"]]
    if not measured:
        raise ValueError(
            f"{len(found)} of the folders hold a results.json, none of them with numbers; give "
            "folders of runs that ended, on a model with a judge"
        )
    detectors = sorted({result["detector"] for result in measured})
    if len(detectors) > 1:
        raise ValueError(f"runs were measured by {' and '.join(detectors)}; one table has one")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in measured:
        groups.setdefault((result["concept"], result["preset"]), []).append(result)
    lines = [
        f"| {detectors[0]} | preset | runs | {' | '.join(METRICS)} |",
        "|---|---|---|" + "---|" * len(METRICS),
    ]
    for (concept, preset), runs in sorted(groups.items()):
        cells = [_cell(metric, runs) for metric in METRICS]
        lines.append(f"| {concept} | {preset} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _results(folders: Iterable[str | Path]) -> list[Path]:
    paths = [Path(folder) / "results.json" for folder in folders]
    return sorted(path for path in paths if path.is_file())


def _cell(metric: str, runs: Sequence[dict[str, Any]]) -> str:
    after = [run["erased"][metric]["percent"] for run in runs if run["erased"][metric]["total"]]
    if not after:
        return ""
    base = statistics.mean(run["base"][metric]["percent"] for run in runs)
    worst = max(after) if metric in _ERASED else min(after)
    return f"{base:.1f} > {statistics.mean(after):.1f} ({worst:.1f})"


def main(arguments: list[str]) -> None:
    with one_line_errors():
        sys.stdout.write(table(arguments[1:]))


if __name__ == "__main__":
    app.run(main)
