"""Table 2 right: do pictures of everything else stay as good as the base's?

    ea-jax evaluate quality --edit runs/cat-tiny --out out/quality
    ea-jax evaluate quality --model FLUX --edit runs/nudity-flux-dev --prompts captions.csv \\
        --clip openai/clip-vit-large-patch14 --reference COCO_PICTURES --out out/quality

On flux-tiny the judge stands for InceptionV3 and CLIP. FD-judge is the Fréchet distance of its
features to those of other pictures by the base (other seeds, same prompts); the judge score is how
well a picture agrees with its prompt. No prompt names what was erased. With captions it is CLIP's
score and FID, see `clip_quality`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ea_jax.arguments import Parser, number, text
from ea_jax.evaluate import metrics, worlds
from ea_jax.exam import clip_quality, model, record, several
from ea_jax.exam.distances import beside, frechet
from ea_jax.exam.model import BASE
from ea_jax.runtime.program import one_line_errors, start_program

TASK = "quality"
_OTHER_SEEDS = 500_000
_PICTURES, _SHOWN = 120, 10


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate quality", "Pictures of everything else, beside the base's.")
    model.add_arguments(parser)
    parser.add(
        "--pictures",
        rule=number(int, low=2),
        help=f"by each; all of --prompts by default, else {_PICTURES}",
    )
    parser.add("--prompts", rule=text, help="captions: CSV with a column `prompt`, or .txt")
    parser.add("--clip", rule=text, help="folder or hub id of the CLIP that scores them")
    parser.add("--reference", rule=text, help="folder of pictures that FID is measured to")
    parser.add("--inception", rule=text, help="torch-fidelity's file of FID's network")
    given = parser.parse_args(arguments)
    parser.require(given, "prompts", needs="clip")
    parser.require(given, "clip", needs="prompts")
    parser.require(given, "reference", needs="prompts")
    parser.require(given, "inception", needs="reference")
    start_program()
    with one_line_errors("a smaller --batch or --size"):
        measured = evaluate if given.prompts is None else clip_quality.evaluate
        sys.stdout.write(measured(given, record.command(TASK, arguments)))


def evaluate(given: argparse.Namespace, command: str) -> str:
    """Paints what a model's judge reads, and writes what a task leaves.

    Args:
      given: the command's arguments.
      command: its line, for the record.
    Returns:
      The Markdown table.
    Raises:
      ValueError: a model without a judge, no edit, one of several concepts, or as
        `model.open_painter`.
    """
    if not worlds.has_detector(given.model):
        raise ValueError(
            f"{given.model} comes with no judge; give --prompts, a file of captions, and --clip"
        )
    given = argparse.Namespace(**{**vars(given), "pictures": given.pictures or _PICTURES})
    out = record.claim(given.out, TASK, record.asked(given))
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
        command=command,
        table=shown,
        protocol=record.protocol_of(painter, subjects, [detector]),
        quality=found,
        prompts=[[probe.prompt, probe.seed] for probe in probes],
    )
    return shown


Seen = tuple[np.ndarray, np.ndarray]


def compared(one: Seen, base: Seen, there_PF: np.ndarray) -> dict[str, dict[str, float]]:
    """FD and score of one's pictures, and the 95 % interval of how far they are from the base's.

    Args:
      one, base: features [P, F] and scores [P] of the same prompts and seeds.
      there_PF: features that FD is measured to.
    """
    measured = {
        "FD": lambda seen, rows: frechet(seen[0][rows], there_PF),
        "score": lambda seen, rows: float(seen[1][rows].mean()),
    }
    return {name: beside(of, one, base, len(there_PF)) for name, of in measured.items()}


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
