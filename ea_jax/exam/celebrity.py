"""Who is still recognised: names that were erased, each by itself, and names that were to stay.

    ea-jax evaluate celebrity --method embedder --out out/celebrity
    ea-jax evaluate celebrity --words Pierrot,Talos --kept "Oberon,Santa Claus" --out out/celebrity
    ea-jax evaluate celebrity --model FLUX --edit runs/adele --edit runs/eminem \\
        --classifier classifiers/table-7 --out out/celebrity

EraseAnything (ICML 2025), section 5.3 and appendix F.1: a classifier of faces reads pictures of
erased and of kept names, Table 7's on FLUX. Each erased name has an edit of its own. Without
`--classifier` one is trained on portraits by the base; on flux-tiny the judge stands beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ea_jax.arguments import Parser, number, text
from ea_jax.concepts import forms, rows
from ea_jax.concepts.choose import Words
from ea_jax.detectors import celebrity
from ea_jax.detectors.celebrity import Classifier
from ea_jax.detectors.together import Together
from ea_jax.erase import WORDS
from ea_jax.evaluate import metrics, worlds
from ea_jax.evaluate.probes import Detector, Probe, Reading, check_held_out
from ea_jax.exam import model, portraits, record, several, trials
from ea_jax.exam.celebrity_counts import CLASSIFIER, JUDGE, Erasure, as_json, counts, table
from ea_jax.exam.model import BASE, Subject
from ea_jax.painter import Painter
from ea_jax.runtime.program import TRAIN_IN_LESS, one_line_errors, start_program

TASK = "celebrity"
# Of evaluation on a FLUX: no erasure or classifier is trained with these.
TEMPLATES = (
    "a close-up photo of {}",
    "{} smiling at the camera",
    "a studio portrait of {}, grey background",
    "{} at a film premiere",
    "a watercolour painting of {}",
)
_SEEDS = 1_000_000
_SHOWN = 6  # erasures in the contact sheet


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate celebrity", "Who is still recognised of erased and of kept names.")
    several.add_arguments(parser)
    trials.add_set_argument(parser)
    parser.add("--kept", rule=text, help="names that should stay: a,b or @FILE")
    parser.add("--kept_pictures", rule=number(int, low=1), default=1, help="of each, by each edit")
    parser.add("--classifier", rule=text, help="folder of one that `celebrity-classifier` trained")
    parser.add(
        "--portraits",
        rule=number(int, low=2),
        default=50,
        help="pictures of each name to train one on, where none is given",
    )
    portraits.add_start_arguments(parser)
    given = several.parsed(parser, arguments)
    parser.forbid("portraits", "weights", "image_size", beside="classifier")
    start_program()
    with one_line_errors(TRAIN_IN_LESS):
        sys.stdout.write(evaluate(given, record.command(TASK, arguments)))


def evaluate(given: argparse.Namespace, command: str) -> str:
    """Makes what isn't there yet, paints, reads, and writes what a task leaves.

    Args:
      given: the command's arguments.
      command: its line, for the record.
    Returns:
      The Markdown table.
    Raises:
      ValueError: names, edits, a model or a classifier that won't do.
    """
    plan = _plan(given)
    model.require_sampling(given)
    out = record.claim(given.out, TASK, record.asked(given))
    subjects = model.subjects_of(given.edit)[1:] or _made(given, plan.erased)
    found = [
        _erasure(one, names, plan, turn=turn, pictures=given.kept_pictures)
        for turn, (one, names) in enumerate(zip(subjects, plan.erased, strict=True))
    ]
    every = list(dict.fromkeys(probe for one in found for probe in (*one.own, *one.kept)))
    portrayed = [prompt for prompts in plan.portraits.values() for prompt in prompts]
    check_held_out(every, portrayed)
    prompts = list(dict.fromkeys([*several.prompts_of(every), *portrayed]))
    painter = model.open_painter(given, prompts, [Subject(BASE), *subjects])
    source = Path(given.classifier or out / portraits.CLASSIFIER)
    if given.classifier is None:
        portraits.learn(painter, plan.portraits, out, given)
    classifier, tested = Classifier.load(source), portraits.tested(source)
    both: list[Detector] = [classifier, *([plan.judge] if plan.judge else [])]
    detector = Together(both)
    readers = [CLASSIFIER, *([JUDGE] if plan.judge else [])]
    read = functools.partial(_read, painter, detector, given.cache)
    base = read(Subject(BASE), every)
    answers = [read(one.subject, [*one.own, *one.kept]) for one in found]
    counted = [
        {reader.name: counts(one, base, after, reader) for reader in readers}
        for one, after in zip(found, answers, strict=True)
    ]
    shown = table(found, counted, plan.development)
    shown += f"\n{portraits.told(tested, len(classifier.names))}\n"
    _write_sheet(out / "pictures.png", painter, found[:_SHOWN])
    record.write(
        out,
        TASK,
        command=command,
        table=shown,
        protocol=record.protocol_of(painter, [Subject(BASE), *subjects], [detector]),
        classifier={
            "folder": str(source),
            "names": list(classifier.names),
            "test": tested.as_json(),
        },
        rows=[as_json(*one) for one in zip(found, counted, strict=True)],
        **record.pictures_of(
            every,
            {
                one.name: [known.get(probe) for probe in every]
                for one, known in zip([Subject(BASE), *subjects], [base, *answers], strict=True)
            },
        ),
    )
    return shown


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is asked, known before anything is made or painted.

    Attributes:
      erased: names of each erasure; one, unless an edit says that it erases several.
      kept: names that should stay.
      probes: of each of these names.
      judge: of the model's world, if it has one.
      portraits: prompts to train a classifier on, by name; none where one is given.
      development: of the names, those on which settings were chosen.
    """

    erased: Sequence[tuple[str, ...]]
    kept: Sequence[str]
    probes: Mapping[str, Sequence[Probe]]
    judge: Detector | None
    portraits: Mapping[str, Sequence[str]]
    development: Sequence[str]


def _plan(given: argparse.Namespace) -> Plan:
    people = worlds.people_of(given.model)
    if given.edit and given.words:
        raise ValueError("give either --edit, once for each erasure, or --words")
    erased = [_erased(one) for one in model.subjects_of(given.edit)[1:]]
    if not erased:
        words = several.names_in(given.words, "--words") if given.words else people.erased
        erased = [(word,) for word in words]
    gone = [name for names in erased for name in names]
    if twice := next((name for name in gone if gone.count(name) > 1), None):
        raise ValueError(f"two edits erase {twice!r}; give one of them")
    kept = several.names_in(given.kept, "--kept") if given.kept else people.kept
    kept = [name for name in kept if name not in gone]
    if not kept:
        raise ValueError("no name is left to be kept; give some that no edit erases with --kept")
    asked = [*gone, *kept]
    probes, judge = probes_of(given.model, asked, given.pictures)
    painted = {}
    if given.classifier is None:
        portraits.start(given)
        names = list(dict.fromkeys((*people.erased, *people.kept, *asked)))
        painted = portraits.prompts_of(worlds.of_model(given.model), names, given.portraits)
    else:
        portraits.tested(given.classifier)
        _require_known(asked, Classifier.load(given.classifier).names)
    development = worlds.classes_of(given.model).development if judge else ()
    chosen_on = [name for name in asked if name in development]
    return Plan(erased, kept, probes, judge, painted, chosen_on)


def _erased(one: Subject) -> tuple[str, ...]:
    if one.edit is None or not one.edit.concept:
        raise ValueError(f"--edit={one.source} doesn't say what it erases; give a run's folder")
    return tuple(one.edit.concept.split(", "))


def _made(given: argparse.Namespace, erased: Sequence[tuple[str, ...]]) -> list[Subject]:
    """An edit for each name, made if it isn't there yet."""
    changes = {**trials.changes(given.set), "sample.eval_pictures": 0}
    sources = several.made(given, [word for (word,) in erased], changes)
    return [
        Subject(f"without {word}", model.edit_of(source), source=source)
        for word, source in sources.items()
    ]


def _require_known(names: Sequence[str], known: Sequence[str]) -> None:
    if strange := next((name for name in names if name not in known), None):
        raise ValueError(
            f"the classifier doesn't know {strange!r}; give one that was trained on that name, too"
        )


def probes_of(
    path: str, names: Sequence[str], pictures: int
) -> tuple[dict[str, list[Probe]], Detector | None]:
    """Each name's prompts and seeds, and the judge of the model's world, if there is one.

    Raises:
      ValueError: a name that the model's world doesn't know.
    """
    judge, found = None, {}
    closed = worlds.has_detector(path)
    for name in names:
        question = (CLASSIFIER.name, frozenset({(celebrity.HEAD, name)}))
        if closed:
            task, judge = worlds.task_of(path, name, pictures=pictures)
            found[name] = [
                dataclasses.replace(
                    probe, questions=(question, (JUDGE.name, probe.questions[0][1]))
                )
                for probe in several.asked(task, metrics.CONCEPT.name, pictures)
            ]
        else:
            found[name] = [
                Probe(TEMPLATES[i % len(TEMPLATES)].replace("{}", name), _SEEDS + i, (question,))
                for i in range(pictures)
            ]
    return found, judge


def _erasure(
    subject: Subject, names: tuple[str, ...], plan: Plan, *, turn: int, pictures: int
) -> Erasure:
    """What an edit is asked; of each kept name other pictures than the edit before it."""
    others = []
    for name in plan.kept:
        probes = plan.probes[name]
        turns = range(turn * pictures, turn * pictures + min(pictures, len(probes)))
        others += [probes[i % len(probes)] for i in turns]
    own = tuple(probe for name in names for probe in plan.probes[name])
    return Erasure(subject, names, own, tuple(others), _trained_with(subject, plan.kept))


def _trained_with(subject: Subject, names: Sequence[str]) -> frozenset[str] | None:
    """Names that stand in what an edit's run was trained with, or is told to keep."""
    file = Path(subject.source or "") / WORDS
    if not file.is_file():
        return None
    words = Words.of_json(file)
    texts = [*words.preserve, *words.near]
    for one in words.concepts:
        texts += [*rows.plain(one), *one.synonyms, one.neutral or ""]
        texts += [word for group in one.irrelevant for word in group]
    return frozenset(name for name in names if any(map(forms.AnyOf((name,)).first, texts)))


def _read(
    painter: Painter, detector: Detector, cache: str, one: Subject, probes: Sequence[Probe]
) -> dict[Probe, Reading]:
    [found] = model.read(painter, probes, detector, [one], cache=cache).values()
    return dict(zip(probes, found, strict=True))


def _write_sheet(path: Path, painter: Painter, found: Sequence[Erasure]) -> None:
    """Paints two pictures of an erased name and two of kept ones again, base beside edit."""
    sheet: dict[str, list[np.ndarray]] = {}
    for one in found:
        probes = [*one.own[:2], *one.kept[:2]]
        prompts, seeds = [probe.prompt for probe in probes], [probe.seed for probe in probes]
        before = painter.paint(prompts, seeds)
        edit, strength = one.subject.edit, one.subject.strength
        after = painter.paint(prompts, seeds, edit=edit, strength=strength)
        sheet[one.subject.name] = [
            image for pair in zip(before, after, strict=True) for image in pair
        ]
    record.contact_sheet(path, sheet, ["erased: base", "edit"] * 2 + ["kept: base", "edit"] * 2)
