"""Appendix B and Fig. 10a: does the base model paint the same picture for words in any order?

    ea-jax evaluate order --out out/order

Each prompt is painted with its words in order, shuffled, and, as a control, exchanged for another
prompt; the same seed each time. A concept of several words stays together.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np

from ea_jax.arguments import Parser, number, text
from ea_jax.concepts import sentences
from ea_jax.evaluate import metrics, worlds
from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.probes import Probe
from ea_jax.exam import model, record, several
from ea_jax.exam.model import BASE, Subject
from ea_jax.runtime.program import one_line_errors, start_program

TASK = "order"
_SEED, _SHOWN = 411, 10


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate order", "Prompts in order against shuffled ones, by the base model.")
    model.add_arguments(parser, edits=False)
    parser.add("--words", rule=text, default="development", help="concepts that are asked for")
    parser.add("--pictures", rule=number(int, low=2), default=12, help="of each concept")
    given = parser.parse_args(arguments)
    start_program()
    with one_line_errors():
        words = worlds.classes_of(given.model).chosen(given.words)
        if len(words) < 2:
            raise ValueError(
                f"--words={given.words} is one concept; give two or more, whose prompts are "
                "exchanged for each other as a control"
            )
        out = record.claim(given.out, TASK, record.asked(given))
        tasks, detector = several.tasks_of(given, words)
        probes = [
            (word, probe)
            for word, task in tasks.items()
            for probe in several.asked(task, metrics.CONCEPT.name, given.pictures)
        ]
        ordered = [probe for _, probe in probes]
        shuffled = _shuffled(probes)
        # Each prompt's control is the one after the next concept's first, with its own seed.
        turned = ordered[given.pictures :] + ordered[: given.pictures]
        control = [
            dataclasses.replace(probe, prompt=other.prompt)
            for probe, other in zip(ordered, turned, strict=True)
        ]
        both = [*ordered, *shuffled]
        painter = model.open_painter(given, several.prompts_of(both), [Subject(BASE)])
        painted = [
            painter.paint([one.prompt for one in part], [one.seed for one in part])
            for part in (ordered, shuffled, control)
        ]
        prompts = [probe.prompt for probe in ordered]
        shown = [metrics.CONCEPT.score(ordered, detector(part, prompts)) for part in painted]
        apart = [_distance(painted[0], part) for part in painted[1:]]
        table_ = table(shown, apart)
        record.contact_sheet(
            out / "pictures.png",
            {
                name: list(part[:: max(1, len(part) // _SHOWN)][:_SHOWN])
                for name, part in zip(("in order", "shuffled"), painted, strict=False)
            },
            [one.prompt for one in shuffled][:: max(1, len(shuffled) // _SHOWN)][:_SHOWN],
        )
        names = ("in order", "shuffled", "another prompt")
        record.write(
            out,
            TASK,
            command=record.command(TASK, arguments),
            table=table_,
            protocol=record.protocol_of(painter, [Subject(BASE)], [detector]),
            shows={name: rate.as_json() for name, rate in zip(names, shown, strict=True)},
            distance=dict(zip(names[1:], apart, strict=True)),
            prompts=[
                {"prompt": a.prompt, "shuffled": b.prompt, "seed": a.seed}
                for a, b in zip(ordered, shuffled, strict=True)
            ],
        )
        sys.stdout.write(table_)


def table(shown: Sequence[Rate], apart: Sequence[float]) -> str:
    """A Markdown table: whether the concept is there, and how far the picture is from the first.

    Args:
      shown: of prompts in order, shuffled, exchanged.
      apart: root mean square distance of the last two from the first, in [0, 1].
    """
    rows = []
    for name, rate, distance in zip(
        ("in order", "shuffled", "another prompt"), shown, (0.0, *apart), strict=True
    ):
        low, high = rate.interval
        rows.append(
            [
                name,
                f"{rate.hits} / {rate.total} ({low:.0f} to {high:.0f} %)",
                f"{distance:.3f}",
            ]
        )
    share = 100 * apart[0] / apart[1] if apart[1] else float("nan")
    return (
        record.markdown(["prompt", "shows the concept", "distance of its picture"], rows)
        + f"\nShuffling moves a picture by {share:.0f} % of what another prompt does.\n"
    )


def _shuffled(probes: Sequence[tuple[str, Probe]]) -> list[Probe]:
    rng = np.random.default_rng(_SEED)
    return [
        dataclasses.replace(probe, prompt=sentences.shuffle_phrases(probe.prompt, concept, rng))
        for concept, probe in probes
    ]


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Root mean square difference of two sets of pictures, averaged over pictures."""
    return float(np.sqrt(((one - other) ** 2).mean((1, 2, 3))).mean())
