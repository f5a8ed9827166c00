"""The table and the picture of a comparison."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from cases import Case

COLOURS = {
    **dict.fromkeys(("ours", "ours, sampling"), "#1b7f79"),
    **dict.fromkeys(("torch", "diffusers"), "#c96f3b"),
    "torch.compile": "#e0a458",
    "published": "#7d7d7d",
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was found on one case, contestants by name, ours first.

    Attributes:
      case: which.
      times: seconds of a run, one a round.
      memory: MiB of resident memory: `loaded`, `peak`, `steady`; ours also at a `second` start.
      notes: what else is to be said: differences, contestants that don't run.
      flops: operations of a pair of ours; None for sampling.
      gemm: FLOP/s of a large product in the same minutes.
    """

    case: Case
    times: dict[str, list[float]]
    memory: dict[str, dict[str, float]]
    notes: dict[str, str]
    flops: int | None
    gemm: float

    def median(self, name: str) -> float:
        return statistics.median(self.times[name])

    @property
    def first(self) -> str:
        return next(iter(self.times))


def markdown(found: Sequence[Measured], about: str) -> str:
    """One row a contestant."""
    lines = [
        about,
        "",
        "| case | who | ms (range) | ours is faster by | peak MiB (second start) | "
        "steady MiB | of GEMM rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        lines += [_line(row, name) for name in row.times]
    lines += ["", "GEMM rate, GFLOP/s, and what a pair needs, GFLOP:", ""]
    for row in found:
        need = "" if row.flops is None else f"; {row.flops / 1e9:.2f}"
        said = "".join(f"; {name} {value}" for name, value in row.notes.items())
        lines.append(f"- {row.case.label}: {row.gemm / 1e9:.0f}{need}{said}")
    return "\n".join(lines) + "\n"


def plot(found: Sequence[Measured], path: Path) -> None:
    """Time of every contestant relative to ours, one group of bars a case."""
    figure, axes = plt.subplots(figsize=(8, 0.5 + 0.9 * len(found)), layout="constrained")
    for i, row in enumerate(found):
        for j, name in enumerate(row.times):
            times = row.median(name) / row.median(row.first)
            place = i + 0.2 * (j - (len(row.times) - 1) / 2)
            # From 1, so that a bar's length is the logarithm of the ratio.
            axes.barh(place, times - 1, 0.18, left=1, color=COLOURS[name])
            axes.text(
                max(times, 1), place, f" {name}: {_ms(1000 * row.median(name))} ms", va="center"
            )
    axes.set_yticks(range(len(found)), [row.case.label for row in found])
    axes.invert_yaxis()
    axes.set_xscale("log")
    slowest = max(row.median(name) / row.median(row.first) for row in found for name in row.times)
    quickest = min(row.median(name) / row.median(row.first) for row in found for name in row.times)
    axes.set_xlim(0.95 * quickest, 2.5 * slowest)
    axes.set_xticks([tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100) if tick < 2.5 * slowest])
    axes.xaxis.set_major_formatter("{x:g} x")
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("time relative to ours")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _line(row: Measured, name: str) -> str:
    times = [1000 * seconds for seconds in row.times[name]]
    spread = "{} ({}-{})".format(*map(_ms, (statistics.median(times), min(times), max(times))))
    faster = peak = steady = ""
    if name != row.first:
        faster = f"{row.median(name) / row.median(row.first):.2f} x"
    if memory := row.memory.get(name):
        peak, steady = f"{memory['peak']:.0f}", f"{memory['steady']:.0f}"
        if "second" in memory:
            peak += f" ({memory['second']:.0f})"
    share = ""
    # The published structure does other work than was counted.
    if row.flops is not None and name != "published":
        share = f"{row.flops / row.median(name) / row.gemm:.0%}"
    cells = [row.case.label, name, spread, faster, peak, steady, share]
    return f"| {' | '.join(cells)} |"


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
