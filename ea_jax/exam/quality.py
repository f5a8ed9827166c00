"""Table 2 right: do pictures of everything else stay as good as the base's?

    ea-jax evaluate quality --edit runs/cat-tiny --out out/quality

On flux-tiny the judge stands for InceptionV3 and CLIP. FD-judge is the Fréchet distance of its
features to those of other pictures by the base (other seeds, same prompts); the judge score is how
well a picture agrees with its prompt. No prompt names what was erased.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ea_jax.arguments import Parser, number
from ea_jax.evaluate import metrics
from ea_jax.exam import model, record, several
from ea_jax.exam.model import BASE
from ea_jax.runtime.program import one_line_errors, start_logging

TASK = "quality"
_OTHER_SEEDS = 500_000
_DRAWS, _SEED = 200, 421
_SHOWN = 10


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate quality", "Pictures of everything else, beside the base's.")
    model.add_arguments(parser)
    parser.add("--pictures", rule=number(int, low=2), default=120, help="by each")
    given = parser.parse_args(arguments)
    start_logging()
    with one_line_errors():
        out = record.claim(given.out, TASK, {"model": given.model, "pictures": given.pictures})
        subjects = model.subjects_of(given.edit)
        erased = list(dict.fromkeys(several.concept_of(one) for one in subjects[1:]))
        if not erased:
            raise ValueError("no edit is given; give --edit, at least once")
        tasks, detector = several.tasks_of(given, erased)
        features = several.features_of(detector)
        probes = several.unrelated(tasks)
        probes = [probes[i % len(probes)] for i in range(given.pictures)]
        probes = [dataclasses.replace(probe, seed=probe.seed + i) for i, probe in enumerate(probes)]
        prompts, seeds = [probe.prompt for probe in probes], [probe.seed for probe in probes]
        painter = model.open_painter(given, several.prompts_of(probes), subjects)
        reference = painter.paint(prompts, [seed + _OTHER_SEEDS for seed in seeds])
        there_PF = features(reference)
        found: dict[str, dict[str, Any]] = {}
        sheet, seen = {}, {}
        for one in subjects:
            pictures = painter.paint(prompts, seeds, edit=one.edit, strength=one.strength)
            read = detector(pictures, prompts)
            scores_P = np.array([reading.scores["agreement"] for reading in read])
            seen[one.name] = features(pictures), scores_P
            found[one.name] = compared(seen[one.name], seen[BASE], there_PF) | _shares(probes, read)
            sheet[one.name] = list(pictures[:_SHOWN])
        shown = table(found)
        record.contact_sheet(out / "pictures.png", sheet, prompts[:_SHOWN])
        record.write(
            out,
            TASK,
            table=shown,
            protocol=record.protocol_of(painter, subjects, [detector]),
            quality=found,
            prompts=[[probe.prompt, probe.seed] for probe in probes],
        )
        sys.stdout.write(shown)


def frechet(one_PF: np.ndarray, other_PF: np.ndarray) -> float:
    """Fréchet distance of two sets of features, each taken as a normal distribution.

    Source: Dowson and Landau, 1982: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).
    """
    one_PF, other_PF = np.asarray(one_PF, np.float64), np.asarray(other_PF, np.float64)
    mean = one_PF.mean(0) - other_PF.mean(0)
    # The trace of the root is the nuclear norm of the product of the factors, which are as tall as
    # there are pictures: fewer than features, most often.
    a_PF, b_PF = (_centred(x_PF) for x_PF in (one_PF, other_PF))
    roots = np.linalg.svd(a_PF @ b_PF.T, compute_uv=False)
    spread = (a_PF**2).sum() + (b_PF**2).sum()
    return float(mean @ mean + spread - 2 * roots.sum())


Seen = tuple[np.ndarray, np.ndarray]


def compared(one: Seen, base: Seen, there_PF: np.ndarray) -> dict[str, dict[str, float]]:
    """FD and score of one's pictures, and the 95 % interval of how far they are from the base's.

    Args:
      one, base: features [P, F] and scores [P] of the same prompts and seeds.
      there_PF: features that FD is measured to.
    """
    rng = np.random.default_rng(_SEED)
    rows_DP = rng.integers(len(there_PF), size=(_DRAWS, len(there_PF)))
    measured = {
        "FD": lambda seen, rows: frechet(seen[0][rows], there_PF),
        "score": lambda seen, rows: float(seen[1][rows].mean()),
    }
    found = {}
    for name, of in measured.items():
        # The same rows for both: what drawing again does to a distance falls out.
        apart = [of(one, rows) - of(base, rows) for rows in rows_DP]
        low, high = np.percentile(apart, [2.5, 97.5])
        value = of(one, slice(None))
        found[name] = {"value": value, "low": float(low), "high": float(high)}
    return found


def _centred(x_PF: np.ndarray) -> np.ndarray:
    """A with A^T A the covariance."""
    return (x_PF - x_PF.mean(0)) / np.sqrt(len(x_PF) - 1)


def table(found: dict[str, dict[str, Any]]) -> str:
    """A Markdown table; behind an edit's numbers the 95 % interval of its distance to the base."""
    rows = []
    for name, one in found.items():
        cells = [
            f"{one[key]['value']:.3f}"
            + ("" if name == BASE else f" ({one[key]['low']:+.3f} to {one[key]['high']:+.3f})")
            for key in ("FD", "score")
        ]
        rows.append([name, *cells, *(f"{one[key]['percent']:.1f}" for key in ("shown", "valid"))])
    header = ["", "FD (low is good)", "score (high is good)", "shows what is asked, %", "valid, %"]
    lines = [f"- {name}: {_said(one)}" for name, one in found.items() if name != BASE]
    return record.markdown(header, rows) + "\n" + "\n".join(lines) + "\n"


def _said(one: dict[str, Any]) -> str:
    worse = [
        name
        for name, bad in (("FD", one["FD"]["low"] > 0), ("score", one["score"]["high"] < 0))
        if bad
    ]
    return f"worse than the base in {' and '.join(worse)}" if worse else "no worse than the base"


def _shares(probes: Sequence[Any], readings: Sequence[Any]) -> dict[str, Any]:
    return {
        "shown": metrics.OTHERS.score(probes, readings).as_json(),
        "valid": metrics.VALID.score(probes, readings).as_json(),
    }
