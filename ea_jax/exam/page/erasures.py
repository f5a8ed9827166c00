"""Plots of tasks that erase by themselves: `concepts`, `ablation`, `sweep`."""

from __future__ import annotations

import dataclasses
import functools
import operator
import statistics
import textwrap
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from ea_jax.evaluate import metrics
from ea_jax.evaluate.metrics import METRICS, Rate
from ea_jax.exam.page import plots, radars, verdict
from ea_jax.exam.page.folders import Examined, Rates, entry_of, rate_of

CONCEPTS = "concepts"
TASKS = (CONCEPTS, "ablation", "sweep")
_SIDES = ("base", "erased")
_LONGEST = 22  # letters in a line of a row's name
Plots = list[tuple[Markup | None, str]]


@dataclasses.dataclass(frozen=True)
class Erased:
    """A word under one row of a task, all its seeds together.

    Attributes:
      row: method, terms of the loss, or settings.
      word: that was erased.
      category: of the word; empty where the task doesn't say.
      both: rates, {"base": ..., "erased": ...}.
    """

    row: str
    word: str
    category: str
    both: dict[str, Rates]

    def __add__(self, other: Erased) -> Erased:
        both = {side: _added([self.both[side], other.both[side]]) for side in _SIDES}
        return dataclasses.replace(self, both=both)


def of(task: Examined) -> dict[str, list[Erased]]:
    """What a task erased, by row; FileError for results of another form."""
    found: dict[tuple[str, str], Erased] = {}
    for number, one in enumerate(entry_of(task.results, "rows", list, where=task.folder)):
        where = f"{task.folder}, rows, {number}"
        fields = entry_of({"row": one}, "row", dict, where=where)
        row, word = (entry_of(fields, key, str, where=where) for key in ("row", "word"))
        both = {}
        for side in _SIDES:
            rates = entry_of(fields, side, dict, where=where)
            both[side] = {
                name: rate_of(entry_of(rates, name, dict, where=where), f"{where}, {name}")
                for name in rates
            }
        made = Erased(row, word, str(fields.get("category", "")), both)
        found[row, word] = found[row, word] + made if (row, word) in found else made
    by_row: dict[str, list[Erased]] = {}
    for one in found.values():
        by_row.setdefault(one.row, []).append(one)
    return by_row


def plots_of(task: Examined) -> Plots:
    """Erasing against preserving, a point a word; or bars, a row of the task each."""
    found = of(task)
    if task.task == CONCEPTS:
        return [
            (
                _traded(group, f"Erasing against preserving: {row}, {task.name}"),
                f"{row}, a point a word; wanted is the shaded corner",
            )
            for row, group in found.items()
        ]
    captions = {
        "low": "What is left of the concepts; low is good",
        "high": "What is kept; high is good",
    }
    shown: Plots = []
    for better, caption in captions.items():
        names = [metric.name for metric in METRICS if metric.better == better]
        bars = {}
        # Each row erases the same words, so the base is one.
        for row, side, group in (
            *(("base", "base", group) for group in list(found.values())[:1]),
            *((row, "erased", group) for row, group in found.items()),
        ):
            rates = _added([one.both[side] for one in group])
            bars[textwrap.fill(row, _LONGEST)] = {n: rates[n] for n in names if n in rates}
        svg = plots.bars(bars, label=f"{caption}: {task.task}, {task.name}", x="% of pictures")
        shown.append((svg, caption))
    return shown


def methods(tasks: Sequence[Examined]) -> Plots:
    """Means over words of each method of each `concepts` task: a point each, and a line each."""
    means, counts = {}, {}
    for task in tasks:
        for row, group in of(task).items():
            name = row if len(tasks) == 1 else f"{row}, {task.name}"
            means[name] = _means([radars.spokes(one.both) for one in group])
            counts[name] = "1 word" if len(group) == 1 else f"{len(group)} words"
    if not means:
        return []
    over = "words"
    if len(every := set(counts.values())) == 1:
        over = every.pop()
    else:
        means = {f"{name} ({counts[name]})": values for name, values in means.items()}
    shown: Plots = []
    for gone, kept, most in (
        (metrics.CONCEPT, metrics.OTHERS, verdict.BY_NAME),
        (metrics.SYNONYMS, metrics.NEAREST, verdict.BY_SYNONYM),
    ):
        caption = f"{gone.name} against {kept.name}, means over {over}; wanted is the shaded corner"
        points = {
            name: [(100 - values[gone.name], values[kept.name], name)]
            for name, values in means.items()
            if gone.name in values and kept.name in values
        }
        svg = plots.scatter(
            points,
            wanted=(most, verdict.KEPT[kept.name]),
            label=caption,
            x=f"{gone.name}, %: {gone.meaning.partition(' (')[0]}",
            y=f"{kept.name}, % of the base's",
        )
        shown.append((svg, caption))
    radar = radars.drawn(means, label="Means of all metrics by method")
    shown.append((radar, f"Means over {over}; further out is better"))
    return [(svg, caption) for svg, caption in shown if svg is not None]


def _traded(group: Iterable[Erased], label: str) -> Markup | None:
    points: dict[str, list[tuple[float, float, str]]] = {}
    for one in group:
        erased, base = (one.both[side] for side in ("erased", "base"))
        left, kept = erased.get(metrics.CONCEPT.name), erased.get(metrics.OTHERS.name)
        before = base.get(metrics.OTHERS.name)
        if left and left.total and kept and kept.total and before and before.hits:
            point = (left.percent, verdict.share(before, kept), one.word)
            points.setdefault(one.category or "words", []).append(point)
    return plots.scatter(
        points,
        wanted=(verdict.BY_NAME, verdict.KEPT[metrics.OTHERS.name]),
        label=label,
        x=f"{metrics.CONCEPT.name}, % of pictures: the concept is still there",
        y=f"{metrics.OTHERS.name}, % of the base's",
    )


def _added(several: Sequence[Rates]) -> Rates:
    names = dict.fromkeys(name for rates in several for name in rates)
    return {
        name: functools.reduce(operator.add, (rates.get(name, Rate(0, 0)) for rates in several))
        for name in names
    }


def _means(several: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for values in several for name in values)
    return {
        name: statistics.mean(values[name] for values in several if name in values)
        for name in names
    }
