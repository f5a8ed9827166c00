"""Plots as SVG elements of a page: no fonts, scripts or addresses in them, text stays text."""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ea_jax.evaluate.metrics import Rate

BASE, ERASED = "#8a8f98", "#0072b2"
# Okabe and Ito's colours, told apart by the colour-blind too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^")
Look = dict[str, Any]
_FILLED = 4  # areas that can be told apart
_WIDTH = 4.4  # inches; a page scales it to its column
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#667",
    "axes.grid": True,
    "grid.color": "#dde1e6",
    "axes.axisbelow": True,
}
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"


def intervals(rows: Mapping[str, Mapping[str, Rate]], *, label: str, x: str) -> Markup | None:
    """Rates in percent with their 95 % intervals, a row each; None where none has a picture.

    Args:
      rows: by the row's name, then by series; `base` is grey.
      label: what the plot shows, for who can't see it.
      x: what the axis counts.
    """

    def mark(axis: Axes, at: float, rate: Rate, look: Look, _: float) -> None:
        axis.plot(rate.interval, [at, at], color=look["color"], lw=2.2, alpha=0.55)
        axis.plot([rate.percent], [at], ms=5, **look)

    return _by_row(rows, mark, label=label, x=x)


def bars(rows: Mapping[str, Mapping[str, Rate]], *, label: str, x: str) -> Markup | None:
    """As `intervals`, with a bar for each rate and a thin line for its interval."""

    def mark(axis: Axes, at: float, rate: Rate, look: Look, height: float) -> None:
        axis.barh(at, rate.percent, height=0.9 * height, color=look["color"], alpha=0.75)
        axis.plot(rate.interval, [at, at], color="#223", lw=1)

    return _by_row(rows, mark, label=label, x=x)


def _by_row(
    rows: Mapping[str, Mapping[str, Rate]], mark: Callable[..., None], *, label: str, x: str
) -> Markup | None:
    """What `mark` draws of each rate (axis, place, rate, look, room), a row each."""
    rows = {
        name: shown
        for name, series in rows.items()
        if (shown := {what: rate for what, rate in series.items() if rate.total})
    }
    if not rows:
        return None
    names = list(dict.fromkeys(what for series in rows.values() for what in series))
    looks, room = _looks(names), 0.6 / len(names)

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for place, series in enumerate(rows.values()):
            for what, rate in series.items():
                at = place + (names.index(what) - (len(names) - 1) / 2) * room
                mark(axis, at, rate, looks[what], room)
        for what in names:
            axis.plot([], [], label=what, **looks[what])
        axis.set(yticks=range(len(rows)), yticklabels=list(rows), xlim=(-3, 103), xlabel=x)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        if len(names) > 1:
            _legend(axis)

    high = 0.9 + len(rows) * max(0.26, 0.15 * len(names))
    return _svg(draw, height=high, label=label)


def scatter(
    points: Mapping[str, Sequence[tuple[float, float, str]]],
    *,
    wanted: tuple[float, float],
    label: str,
    x: str,
    y: str,
) -> Markup | None:
    """Named points in percent, a look a series; None where there are none.

    Args:
      points: (x, y, name) by series.
      wanted: x at most and y at least; that corner is shaded, and names stand at points outside, as
        far as there is room.
      label: what the plot shows, for who can't see it.
      x, y: what the axes count.
    """
    every = [point for series in points.values() for point in series]
    if not every:
        return None
    looks = _looks(list(points))
    most, least = wanted
    right = max(4 * most, *(at for at, _, _ in every))
    low, high = min(least - 5, *(at for _, at, _ in every)), max(101, *(at for _, at, _ in every))
    low -= 0.05 * (high - low)

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.axvspan(-right, most, ymin=(least - low) / (high + 1 - low), color="#e4f2ea", lw=0)
        for name, series in points.items():
            axis.plot([at for at, _, _ in series], [at for _, at, _ in series], ls="",
                      ms=5, alpha=0.8, label=name, **looks[name])  # fmt: skip
        missed = [point for point in every if point[0] > most or point[1] < least]
        for at, height, name in _legible(missed, right, high - low):
            axis.text(at + 0.02 * right, height, name, fontsize=7, va="center")
        axis.set(xlim=(-0.04 * right, 1.25 * right), ylim=(low, high + 1), xlabel=x, ylabel=y)
        _legend(axis)

    return _svg(draw, height=3.0 + 0.1 * len(points), label=label)


def _legible(
    points: Sequence[tuple[float, float, str]], width: float, height: float
) -> list[tuple[float, float, str]]:
    """Points whose names don't cover one another, the most outlying first."""
    found: list[tuple[float, float, str]] = []
    for point in sorted(points, key=lambda point: point[1] / height - point[0] / width):
        if all(
            abs(point[0] - other[0]) > 0.3 * width or abs(point[1] - other[1]) > 0.05 * height
            for other in found
        ):
            found.append(point)
    return found


def radar(series: Mapping[str, Sequence[float]], spokes: Sequence[str], *, label: str) -> Markup:
    """Closed lines over spokes from 0 to 100, further out is better.

    Args:
      series: each one's value on every spoke; NaN leaves a gap.
      spokes: their names.
      label: what the plot shows, for who can't see it.
    """
    looks = _looks(list(series))
    angles = np.linspace(0, 2 * np.pi, len(spokes), endpoint=False)

    def draw(figure: Figure) -> None:
        axis = figure.subplots(subplot_kw={"projection": "polar"})
        axis.set_theta_offset(np.pi / 2)  # pyright: ignore[reportAttributeAccessIssue]
        axis.set_theta_direction(-1)  # pyright: ignore[reportAttributeAccessIssue]
        for name, values in series.items():
            around = [*values, values[0]]
            axis.plot([*angles, angles[0]], around, ms=4, label=name, **looks[name])
            if len(series) <= _FILLED and not np.isnan(values).any():
                axis.fill([*angles, angles[0]], around, color=looks[name]["color"], alpha=0.08)
        axis.set(xticks=angles, xticklabels=list(spokes), ylim=(0, 105), yticks=[25, 50, 75, 100])
        axis.tick_params(axis="x", pad=16)
        axis.tick_params(axis="y", labelsize=7, labelcolor="#667")
        if len(series) > 1:
            figure.legend(loc="outside lower center", **_legend_of(series))

    return _svg(draw, height=3.9 + 0.2 * (len(series) // 2), label=label)


def curves(
    series: Mapping[str, Sequence[tuple[float, Rate]]], *, label: str, x: str
) -> Markup | None:
    """Rates in percent over what was spent, with their 95 % intervals as bands; None for none."""
    series = {
        name: shown
        for name, points in series.items()
        if (shown := [(at, rate) for at, rate in points if rate.total])
    }
    if not series:
        return None
    looks = _looks(list(series))

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for name, points in series.items():
            spent = [at for at, _ in points]
            axis.plot(spent, [rate.percent for _, rate in points], ms=4, label=name, **looks[name])
            low, high = np.array([rate.interval for _, rate in points]).reshape(-1, 2).T
            axis.fill_between(spent, low, high, color=looks[name]["color"], alpha=0.12, lw=0)
        axis.set(ylim=(-3, 103), xlabel=x, ylabel="%")
        _legend(axis)

    return _svg(draw, height=2.8, label=label)


def losses(steps: Sequence[int], terms: Mapping[str, Sequence[float | None]], *, label: str):
    """Terms of a loss over the steps, on a logarithmic axis; what is no positive number is a gap.

    Returns:
      The SVG; None where no term has a positive number.
    """
    lines = {
        name: [value if value is not None and value > 0 else np.nan for value in values]
        for name, values in terms.items()
    }
    lines = {name: values for name, values in lines.items() if not np.isnan(values).all()}
    if not lines:
        return None
    looks = _looks(list(lines))

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for name, values in lines.items():
            axis.plot(steps, values, color=looks[name]["color"], lw=1.4, label=name)
        axis.set(yscale="log", xlabel="steps")
        axis.grid(which="minor", visible=False)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        _legend(axis)

    return _svg(draw, height=2.6, label=label)


def _looks(names: Sequence[str]) -> dict[str, Look]:
    """Colour and marker of each, `base` grey; where colours begin again, markers are others."""
    others = itertools.cycle(itertools.product(MARKERS, COLOURS))
    found = {}
    for name in names:
        marker, colour = ("o", BASE) if name == "base" else next(others)
        found[name] = {"color": colour, "marker": marker}
    return found


def _legend(axis: Axes) -> None:
    """A legend above the axes."""
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    axis.legend(**place, **_legend_of(axis.get_legend_handles_labels()[1]))


def _legend_of(names: Iterable[str]) -> dict[str, Any]:
    """How a legend looks: in as many columns as its names leave room for."""
    columns = max(1, min(4, 52 // (max(map(len, names)) + 6)))
    return {"ncols": columns, "frameon": False, "fontsize": 8}


def _svg(draw, *, height: float, label: str) -> Markup:
    """What `draw` draws, as an SVG element that may stand in a page beside others."""
    file = io.StringIO()
    # The label makes ids that differ from those of the page's other plots.
    style: Any = {**_STYLE, "svg.hashsalt": label}
    with mpl.rc_context(style), warnings.catch_warnings():
        # The browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure)
        figure.savefig(file, format="svg", transparent=True)
    root = ElementTree.fromstring(file.getvalue())
    _tidy(root)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    # Drawn by matplotlib, its text escaped by ElementTree.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _tidy(root: ElementTree.Element) -> None:
    """Takes out namespaces, metadata, styles of the whole page, and ids that nothing refers to."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', ElementTree.tostring(root, "unicode")))
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if _HREF in element.attrib:
            element.attrib["href"] = element.attrib.pop(_HREF)
        if element.attrib.get("id") not in used:
            element.attrib.pop("id", None)
