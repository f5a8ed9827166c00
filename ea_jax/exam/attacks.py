"""Attacks: is it really gone? Base, zeroed columns and edits under the same prompts and seeds.

    ea-jax evaluate attacks --edit runs/nude-tiny --out out/attacks
    ea-jax evaluate attacks --edit runs/cat --attacks black-box,CCE --pictures 16 --out out/cat

With `--run` it asks for what one run erased in other spellings, with that run's own prompts.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ea_jax import edits, evaluate_attacks
from ea_jax.arguments import Parser, each, number, text
from ea_jax.attacks import catalogue, inversion, prompts, stacking
from ea_jax.attacks.bench import Bench
from ea_jax.attacks.trials import Trial, Victim
from ea_jax.evaluate import worlds
from ea_jax.exam import attack_tables, model, record
from ea_jax.exam.attack_tables import Row
from ea_jax.exam.model import Subject
from ea_jax.runtime import lock, memory
from ea_jax.runtime.program import one_line_errors, start_program

_log = logging.getLogger(__name__)
TASK, ZEROED = "attacks", "zeroed columns"
# Of the second, those that are not asked in an attack are taken.
_SHOWN, _OWN_PICTURES = 8, 64


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    if any(one.split("=")[0] == "--run" for one in arguments):
        evaluate_attacks.main(arguments)
        return
    parser = Parser(
        "evaluate attacks",
        "Tries to get back what an edit erased: base, zeroed columns and edits side by side. With "
        "--run RUN instead of --edit: other spellings alone, with the run's own prompts.",
    )
    model.add_arguments(parser)
    parser.add("--concept", rule=text, help="the word; that of the edits by default")
    parser.add(
        "--attacks",
        rule=each(text),
        default=["all"],
        help=f"all, {', '.join(catalogue.groups())}, or names, separated by commas",
    )
    parser.add("--pictures", rule=number(int, low=1), default=50, help="prompts for each attack")
    parser.add("--seeds", rule=number(int, low=1, high=100), default=5, help="for each prompt")
    parser.add("--benign", rule=text, help="an edit of something else, put on top of each victim")
    parser.add("--budget", rule=number(int, low=1), help="most steps of a search; its own else")
    parser.add("--starts", rule=number(int, low=1), help=f"of CCE; {inversion.STARTS} by default")
    given = parser.parse_args(arguments)
    start_program()
    with one_line_errors():
        memory.keep_freed()
        _log.info("%s\n%s", given.out, examine(given, record.command(TASK, arguments)))


def examine(given: argparse.Namespace, command: str) -> str:
    """Runs the attacks of a command line, writes what a task leaves, and returns the table."""
    subjects = model.subjects_of(given.edit)
    victims = victims_of(subjects)
    word = given.concept or concept_of(subjects)
    chosen = catalogue.chosen(given.attacks, budget=given.budget, starts=given.starts)
    loaded, extra = list(subjects), None
    if given.benign is not None:
        extra = edits.load(given.benign)
        loaded.append(Subject("benign", extra))
        chosen.append(stacking.benign(extra))
    task, detector = worlds.task_of(given.model, word, pictures=given.pictures)
    own, _ = worlds.task_of(given.model, word, pictures=_OWN_PICTURES, seed=1)
    painter = model.open_painter(given, [probe.prompt for probe in task.probes], loaded)
    bench = Bench(
        painter,
        task=task,
        own=own,
        text_length=painter.text([task.probes[0].prompt]).t5_BTD.shape[1],
        detector=detector,
        cache=given.cache,
        seeds=given.seeds,
    )
    protocol = {
        "concept": bench.word,
        "attacks": [attack.name for attack in chosen],
        "prompts": len(bench.probes),
        "seeds": given.seeds,
        "benign": extra and [given.benign, extra.digest()],
        "budget": given.budget,
        "starts": given.starts,
        **record.protocol_of(painter, subjects, [detector]),
    }
    with lock.held(given.out):
        out = record.claim(given.out, TASK, protocol)
        rows = [row for attack in chosen for row in attack_tables.rows_of(bench, attack, victims)]
        table = attack_tables.markdown(rows, victims, bench.seeds)
        record.write(
            out,
            TASK,
            command=command,
            table=table,
            protocol=protocol,
            passes_half=attack_tables.thresholds(rows, victims),
            summary={
                f"asr@{k}": attack_tables.summaries(rows, victims, k)
                for k in sorted({1, bench.seeds})
            },
            attacks=[row.as_json() for row in rows],
        )
        _sheet(out / "worst.png", bench, rows, victims)
    return table


def victims_of(subjects: Sequence[Subject]) -> list[Victim]:
    """The base, zeroed columns, and each edit.

    Raises:
      ValueError: no edit, or one with the name of another victim.
    """
    edited = [Victim(one.name, one.edit, one.strength) for one in subjects if one.edit is not None]
    if not edited:
        raise ValueError("there is nothing to attack; give --edit RUN")
    if hiding := next((one.name for one in edited if one.edit and one.edit.zeroed), None):
        raise ValueError(f"zeroed columns are attacked anyway; leave --edit {hiding} out")
    if ZEROED in (one.name for one in edited):
        raise ValueError(f"no edit may be named {ZEROED!r}; write --edit NAME=PATH")
    return [Victim(model.BASE), Victim(ZEROED, zeroed=True), *edited]


def concept_of(subjects: Sequence[Subject]) -> str:
    """What all edits erase; ValueError where they name none, or several."""
    named = sorted({one.edit.concept or "" for one in subjects if one.edit is not None})
    if len(named) != 1 or not named[0] or ", " in named[0]:
        raise ValueError(
            f"the edits erase {' and '.join(map(repr, named))}; say with --concept what to ask for"
        )
    return named[0]


def _sheet(path: Path, bench: Bench, rows: Sequence[Row], victims: Sequence[Victim]) -> None:
    """The base plainly asked, and each victim under the worst attack of each kind."""
    pictures = {model.BASE: _painted(bench, victims[0], prompts.plain(bench))}
    for victim in victims[1:]:
        for name, case in attack_tables.worst(rows, victim).items():
            pictures[f"{victim.name}: {name}"] = _painted(bench, victim, case.trial)
    record.contact_sheet(path, pictures)


def _painted(bench: Bench, victim: Victim, trial: Trial) -> Sequence[np.ndarray]:
    edit, strength = victim.with_another(trial.added)
    probes = trial.probes[:_SHOWN]
    asked = [probe.prompt for probe in probes], [probe.seed for probe in probes]
    return list(bench.canvas(victim, trial).paint(*asked, edit=edit, strength=strength))


if __name__ == "__main__":
    main(sys.argv[1:])
