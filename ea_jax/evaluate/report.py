"""What a run leaves for the eye: before/after grids, attention maps, tables."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from convert.disk import draft
from ea_jax.evaluate.results import Results


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One row of a grid: a prompt's pictures [n, H, W, 3] in [0, 1], same seeds in both."""

    prompt: str
    before: np.ndarray
    after: np.ndarray


def before_after_grid(path: str | Path, rows: Sequence[Comparison]) -> None:
    """Writes a PNG: a row a prompt, pairs of columns before and after, one pair a seed."""
    seeds = rows[0].before.shape[0]
    figure = Figure(figsize=(1.7 * 2 * seeds + 2.2, 1.85 * len(rows) + 0.4), dpi=110)
    axes = figure.subplots(len(rows), 2 * seeds, squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for seed in range(seeds):
            pictures = {"before": row.before[seed], "after": row.after[seed]}
            for offset, (name, picture) in enumerate(pictures.items()):
                axis = line[2 * seed + offset]
                _show(axis, picture)
                if row is rows[0]:
                    axis.set_title(name, fontsize=9)
        label = textwrap.fill(f"“{row.prompt}”", 24)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8, labelpad=8)
    figure.tight_layout(pad=0.5)
    _write(figure, path)


def attention_maps(
    path: str | Path,
    pictures: Mapping[str, np.ndarray],
    maps: Mapping[str, np.ndarray],
    *,
    concept: str,
    prompt: str,
) -> None:
    """Writes a PNG of where the image looks for the concept, before and after.

    Args:
      path: of the PNG.
      pictures: {"before": ..., "after": ...}, [H, W, 3] in [0, 1].
      maps: the same keys; share of attention to the concept's tokens, [rows, columns] in [0, 1].
      concept: whose tokens.
      prompt: the sentence it stands in.
    """
    highest = max(float(a.max()) for a in maps.values())
    figure = Figure(figsize=(2.4 * 2 * len(maps), 3.0), dpi=110)
    axes = figure.subplots(1, 2 * len(maps))
    for index, (name, attention) in enumerate(maps.items()):
        _show(axes[2 * index], pictures[name])
        axes[2 * index].set_title(name, fontsize=9)
        shown = axes[2 * index + 1].imshow(attention, cmap="magma", vmin=0, vmax=highest)
        axes[2 * index + 1].set(xticks=[], yticks=[])
        axes[2 * index + 1].set_title(f"mean {attention.mean():.2%}", fontsize=9)
    figure.colorbar(shown, ax=list(axes), fraction=0.02)
    figure.suptitle(f"attention to “{concept}” in “{prompt}”", fontsize=9)
    _write(figure, path)


def attention_rows(
    path: str | Path,
    pictures: Mapping[str, np.ndarray],
    maps: Mapping[str, Mapping[str, np.ndarray]],
    *,
    title: str,
) -> None:
    """Writes a PNG: a row a model, its picture and its maps, all maps in one scale.

    Args:
      path: of the PNG.
      pictures: [H, W, 3] in [0, 1], by model.
      maps: share of attention [rows, columns] in [0, 1], by model and group of blocks; a model
        without any has its picture alone.
      title: above all.
    """
    highest = max(float(one.max()) for groups in maps.values() for one in groups.values())
    width = 1 + max(len(groups) for groups in maps.values())
    figure = Figure(figsize=(1.9 * width + 1.8, 1.9 * len(pictures) + 0.6), dpi=110)
    axes = figure.subplots(len(pictures), width, squeeze=False)
    for line, (name, picture) in zip(axes, pictures.items(), strict=True):
        _show(line[0], picture)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8, labelpad=8)
        groups = maps.get(name, {})
        for axis, (group, attention) in zip(line[1:], groups.items(), strict=False):
            axis.imshow(attention, cmap="magma", vmin=0, vmax=highest)
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{group}: {attention.mean():.2%}", fontsize=8)
        for axis in line[1 + len(groups) :]:
            axis.set_axis_off()
    figure.suptitle(title, fontsize=9)
    figure.tight_layout(pad=0.5)
    _write(figure, path)


def pixelated(images_BHWC: np.ndarray, *, cells: int = 16) -> np.ndarray:
    """Pictures averaged over a grid of at most `cells` squares a side: scene kept, detail gone."""
    _, height, width, _ = images_BHWC.shape
    side = -(-max(height, width) // cells)
    out = np.empty_like(images_BHWC)
    for top in range(0, height, side):
        for left in range(0, width, side):
            square = np.s_[:, top : top + side, left : left + side]
            out[square] = images_BHWC[square].mean((1, 2), keepdims=True)
    return out


def metrics_table(results: Results) -> str:
    """A Markdown table: percent, 95 % interval, share of base and counts, base beside erased."""
    lines = [
        f"| {results.detector} | base | erased | 95 % | of base | pictures | what is counted |",
        "|---|---|---|---|---|---|---|",
    ]
    for metric in results.metrics:
        before, after = results.base[metric.name], results.erased[metric.name]
        if not after.total:
            continue
        low, high = after.interval
        share = f"{after.hits / before.hits:.0%}" if before.hits else ""
        lines.append(
            f"| {metric.name} | {before.percent:.1f} | {after.percent:.1f} | {low:.0f} to "
            f"{high:.0f} | {share} | {after.hits} / {after.total} | {metric.meaning} |"
        )
    return "\n".join(lines) + "\n"


def _show(axis, picture_HWC: np.ndarray) -> None:
    axis.imshow(np.clip(picture_HWC, 0, 1), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _write(figure: Figure, path: str | Path) -> None:
    with draft(path) as unfinished:
        figure.savefig(unfinished, format="png", bbox_inches="tight")
