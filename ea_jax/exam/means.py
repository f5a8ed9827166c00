"""Numbers of many trials: all seeds of a word together, then the mean of the words."""

from __future__ import annotations

import functools
import operator
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from ea_jax.evaluate.metrics import METRICS, Metric, Rate
from ea_jax.exam import record
from ea_jax.exam.trials import Result

ByWord = Mapping[str, Sequence[Result]]


def by_word(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results of each word, in order."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.trial.word, []).append(result)
    return found


def both(metric: Metric, runs: Sequence[Result]) -> tuple[Rate, Rate]:
    """Base and erased, all seeds together; of no pictures where the metric doesn't apply."""
    none = Rate(0, 0)
    base = [run.base.get(metric.name, none) for run in runs]
    erased = [run.erased.get(metric.name, none) for run in runs]
    return functools.reduce(operator.add, base), functools.reduce(operator.add, erased)


def mean_cells(group: ByWord) -> list[str]:
    """For each metric `base → erased (worst word)`: means over words, percent."""
    cells = []
    for metric in METRICS:
        rates = [both(metric, runs) for runs in group.values()]
        shares = [(base.percent, erased.percent) for base, erased in rates if erased.total]
        if not shares:
            cells.append("")
            continue
        base, erased = (statistics.mean(values) for values in zip(*shares, strict=True))
        worst = metric.worst([after for _, after in shares])
        cells.append(f"{base:.1f} → {erased:.1f} (worst {worst:.0f})")
    return cells


def rows_table(
    results: Sequence[Result],
    rows: Iterable[str],
    more: Mapping[str, Callable[[Sequence[Result]], str]] = MappingProxyType({}),
) -> str:
    """A Markdown table: a row of trials a line, means over its words.

    Args:
      results: of all rows.
      rows: their names, in order.
      more: further columns: heading -> a row's cell.
    """
    lines = []
    for row in rows:
        own = [result for result in results if result.trial.row == row]
        group = by_word(own)
        extra = (cell(own) for cell in more.values())
        lines.append([row, str(len(group)), *mean_cells(group), *extra])
    return record.markdown(["", "words", *(metric.name for metric in METRICS), *more], lines)
