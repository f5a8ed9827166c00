"""Eq. 12, Fig. 6, 16 and 17: the sum of N erasures, and their normalised sum (1/N).

    ea-jax evaluate multi --words cat,kiss,mosaic --counts 1,2,3 --method embedder --out out/multi

For each N the first N erasures are added up, and averaged. How much of each of the N concepts is
left, and what happens to prompts that name none of them, stand apart.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ea_jax import edits
from ea_jax.arguments import Parser, each, number
from ea_jax.evaluate import metrics, worlds
from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.probes import Probe
from ea_jax.exam import model, record, several
from ea_jax.exam.model import BASE, Subject
from ea_jax.exam.several import Erasures
from ea_jax.runtime.program import TRAIN_IN_LESS, one_line_errors, start_program

TASK = "multi"
_SUMS = {"sum": edits.summed, "mean": edits.averaged}
_COUNTS = (1, 3, 5, 10)  # the paper's
_SHOWN = 6  # pictures in a row of the contact sheet


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate multi", "The sum and the mean of N erasures (Eq. 12).")
    several.add_arguments(parser)
    parser.add(
        "--counts",
        rule=each(number(int, low=1)),
        help="N; by default 1, 3, 5 and 10 as far as there are erasures, and all of them",
    )
    given = several.parsed(parser, arguments)
    start_program()
    with one_line_errors(TRAIN_IN_LESS):
        worlds.classes_of(given.model)
        if given.method == "zeroed_columns":
            raise ValueError(
                "--method=zeroed_columns changes no weights, and nothing of it can be summed; "
                "give a method that does"
            )
        found = several.erasures(given, at_least=max(given.counts or [2]), task=TASK)
        out = Path(given.out)
        counts = given.counts or counts_for(len(found.subjects))
        subjects = _subjects(found, counts)
        erased = {
            word: several.asked(task, metrics.CONCEPT.name, given.pictures)
            for word, task in found.tasks.items()
        }
        others = several.unrelated(found.tasks)
        probes = [*others, *(probe for part in erased.values() for probe in part)]
        painter = model.open_painter(given, several.prompts_of(probes), subjects)
        read = model.read(painter, probes, found.detector, subjects, cache=given.cache)
        rates = {name: _counted(erased, others, answers) for name, answers in read.items()}
        shown = table(rates, counts, list(erased))
        sheet = others[:_SHOWN] + [part[0] for part in list(erased.values())[:_SHOWN]]
        record.contact_sheet(
            out / "pictures.png",
            {
                one.name: list(
                    painter.paint(
                        [probe.prompt for probe in sheet],
                        [probe.seed for probe in sheet],
                        edit=one.edit,
                        strength=one.strength,
                    )
                )
                for one in subjects
            },
            [probe.prompt for probe in sheet],
        )
        record.write(
            out,
            TASK,
            command=record.command(TASK, arguments),
            table=shown,
            protocol=record.protocol_of(painter, subjects, [found.detector]),
            counts=record.rates(rates),
            **record.pictures_of(probes, read),
        )
        sys.stdout.write(shown)


def counts_for(total: int) -> list[int]:
    """The paper's N below a number of erasures, and that number."""
    return [*(n for n in _COUNTS if n < total), total]


def _subjects(found: Erasures, counts: Sequence[int]) -> list[Subject]:
    """The base, and for each N the sum and the mean of the first N edits."""
    given = list(found.subjects.values())
    ordered = [(one.edit, one.edit.used_strength(one.strength)) for one in given if one.edit]
    subjects = [Subject(BASE)]
    for count in counts:
        for name, together in _SUMS.items():
            if count > 1:
                edit = together(*zip(*ordered[:count], strict=True))
                subjects.append(Subject(_name(name, count), edit, source=f"first {count}"))
            elif name == "sum":
                subjects.append(dataclasses.replace(given[0], name=_name(name, count)))
    return subjects


def _name(how: str, count: int) -> str:
    return "one edit" if count == 1 else f"{how} of {count}"


def _counted(
    erased: Mapping[str, Sequence[Probe]],
    others: Sequence[Probe],
    answers: Sequence,
) -> dict[str, Rate]:
    """Rates of one subject: each concept's, that of other concepts, valid pictures among these."""
    left = iter(answers)
    of_others = [next(left) for _ in others]
    rates = {
        metrics.OTHERS.name: metrics.OTHERS.score(others, of_others),
        metrics.VALID.name: metrics.VALID.score(others, of_others),
    }
    for word, part in erased.items():
        rates[word] = metrics.CONCEPT.score(part, [next(left) for _ in part])
    return rates


def table(
    counts: Mapping[str, Mapping[str, Rate]], numbers: Sequence[int], words: Sequence[str]
) -> str:
    """A Markdown table in percent: of the N erased concepts, what is left, beside the base's."""
    rows = []
    base = counts[BASE]
    for count in numbers:
        for how in _SUMS if count > 1 else ("sum",):
            rates = counts[_name(how, count)]
            own = words[:count]
            before, after = (sum((one[word] for word in own), Rate(0, 0)) for one in (base, rates))
            worst = max(own, key=lambda word, rates=rates: rates[word].percent)
            rows.append(
                [
                    _name(how, count),
                    f"{before.percent:.0f} → {after.percent:.1f} "
                    f"(worst {rates[worst].percent:.0f}, {worst})",
                    *(
                        f"{base[key].percent:.1f} → {rates[key].percent:.1f}"
                        for key in (metrics.OTHERS.name, metrics.VALID.name)
                    ),
                ]
            )
    header = ["", "Acc_e of the N", "Acc_ir", "valid, of the latter"]
    return record.markdown(header, rows)
