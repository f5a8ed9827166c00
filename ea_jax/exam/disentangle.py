"""The paper's Fig. 15: each erasure under the prompts of every other concept.

    ea-jax evaluate disentangle --words cat,kiss,mosaic --method embedder --out out/disentangle
    ea-jax evaluate disentangle --edit runs/cat-tiny --edit runs/kiss-tiny --out out/disentangle

A row is what was erased, a column what was asked for. Only the diagonal should fade.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from convert.disk import draft
from ea_jax.arguments import Parser
from ea_jax.evaluate import metrics, worlds
from ea_jax.evaluate.metrics import Rate
from ea_jax.exam import model, record, several
from ea_jax.exam.model import BASE, Subject
from ea_jax.runtime.program import TRAIN_IN_LESS, one_line_errors, start_program

TASK = "disentangle"
Matrix = Mapping[str, Mapping[str, Rate]]


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate disentangle", "Each erasure under every concept's prompts (Fig. 15).")
    several.add_arguments(parser)
    given = several.parsed(parser, arguments)
    start_program()
    with one_line_errors(TRAIN_IN_LESS):
        worlds.classes_of(given.model)
        found = several.erasures(given, at_least=2, task=TASK)
        out = Path(given.out)
        subjects = [Subject(BASE)] + [
            dataclasses.replace(one, name=f"without {word}") for word, one in found.subjects.items()
        ]
        parts = {
            word: several.asked(task, metrics.CONCEPT.name, given.pictures)
            for word, task in found.tasks.items()
        }
        probes = [probe for part in parts.values() for probe in part]
        painter = model.open_painter(given, several.prompts_of(probes), subjects)
        read = model.read(painter, probes, found.detector, subjects, cache=given.cache)
        matrix = {}
        for name, seen in read.items():
            answers = iter(seen)
            matrix[name] = {
                word: metrics.CONCEPT.score(part, [next(answers) for _ in part])
                for word, part in parts.items()
            }
        heat_map(out / "matrix.png", matrix)
        shown = table(matrix)
        record.write(
            out,
            TASK,
            command=record.command(TASK, arguments),
            table=shown,
            protocol=record.protocol_of(painter, subjects, [found.detector]),
            matrix=record.rates(matrix),
            **record.pictures_of(probes, read),
        )
        sys.stdout.write(shown)


def table(matrix: Matrix) -> str:
    """A Markdown table in percent, and the sentence that sums it up."""
    words = list(matrix[BASE])
    rows = [
        [row, *(f"{rates[word].percent:.0f}" for word in words)] for row, rates in matrix.items()
    ]
    own, others = _apart(matrix)
    return (
        record.markdown(["", *words], rows)
        + f"\nOf its own concept an erasure leaves {own:.1f} %, of the others {others:.1f} % of "
        "what the base shows, on average.\n"
    )


def _apart(matrix: Matrix) -> tuple[float, float]:
    """What is left of the erased concepts, and of all others: means of shares of base, percent."""
    base = matrix[BASE]
    own, others = [], []
    for row, rates in matrix.items():
        for word, rate in rates.items():
            if row != BASE and base[word].hits:
                share = 100 * rate.percent / base[word].percent
                (own if row == f"without {word}" else others).append(share)
    return _mean(own), _mean(others)


def _mean(values: Sequence[float]) -> float:
    return statistics.mean(values) if values else math.nan


def heat_map(path: Path, matrix: Matrix) -> None:
    """Writes the matrix as a PNG."""
    words = list(matrix[BASE])
    shares = np.array([[rates[word].percent for word in words] for rates in matrix.values()])
    figure = Figure(figsize=(0.7 * len(words) + 2.5, 0.5 * len(shares) + 1.8), dpi=110)
    axis = figure.subplots()
    axis.imshow(shares, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axis.set_xticks(range(len(words)), words, rotation=45, ha="right")
    axis.set_yticks(range(len(matrix)), list(matrix))
    for row, column in np.ndindex(shares.shape):
        colour = "white" if shares[row, column] < 60 else "black"
        axis.text(
            *(column, row, f"{shares[row, column]:.0f}"), ha="center", va="center", color=colour
        )
    axis.set_title("pictures that show what was asked for, percent", fontsize=9)
    figure.tight_layout()
    with draft(path) as unfinished:
        figure.savefig(unfinished, format="png")
