"""How far flux-tiny's judge can be believed: on renders, and beside a person's eyes.

    ea-jax evaluate judge --out out/judge
    ea-jax evaluate judge --edit runs/cat-tiny --edit runs/kiss-tiny --blind 100 --out out/judge
    ea-jax evaluate judge --answers out/judge/blind-answers.csv --out out/judge

Renders are of flux-tiny's world (the extra `world`), of scenes drawn for this task. Of a thing in
one style there are few different pictures, so many of them are like those that the judge learnt
from: what it makes of painted ones, a person tells (`blind`).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ea_jax.arguments import Parser, number, text
from ea_jax.evaluate import worlds
from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.outputs import versions
from ea_jax.evaluate.probes import Detector, Reading
from ea_jax.exam import blind, model, record, several
from ea_jax.flux import hub
from ea_jax.flux_tiny import probes, vocabulary
from ea_jax.flux_tiny.training import broken
from ea_jax.flux_tiny.training.render import Art, render
from ea_jax.flux_tiny.world import Scene
from ea_jax.runtime.program import one_line_errors, start_program

TASK = "judge"
NO_PICTURE, NOTHING = "none", "nothing"  # read as broken; as a picture without any of the kind
_SEED = 5077
_BROKEN = 200  # pictures of each kind of broken ones
_FEW = 12  # classes of a kind that fit in a table of each against each


@dataclasses.dataclass(frozen=True)
class Read:
    """What the judge reads in pictures that show a class.

    Attributes:
      kind: of the class.
      name: of the class.
      read_as: pictures by what is read in them: the class itself, else what of the kind is read
        and not there, else `NOTHING`; `NO_PICTURE` where the judge sees none.
      elsewhere: pictures without the class in which it is read.
    """

    kind: str
    name: str
    read_as: Counter[str]
    elsewhere: Rate

    @property
    def recall(self) -> Rate:
        return Rate(self.read_as[self.name], self.read_as.total())

    @property
    def mistakes(self) -> str:
        """What is read instead, the commonest first."""
        wrong = [(name, count) for name, count in self.read_as.most_common() if name != self.name]
        return ", ".join(f"{name} {count}" for name, count in wrong)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate judge", "How often flux-tiny's judge is right.")
    model.add_arguments(parser)
    parser.add("--pictures", rule=number(int, low=1), default=40, help="renders for each class")
    parser.add("--blind", rule=number(int, low=1), help="pictures by the edits, to be looked at")
    parser.add("--answers", rule=text, help="CSV file with what a person saw in those")
    given = parser.parse_args(arguments)
    if bool(given.edit) != (given.blind is not None):
        parser.error("--edit and --blind go together; give both, or neither")
    if given.answers is not None and given.edit:
        parser.error("--answers is for pictures that are there; leave --edit and --blind out")
    start_program()
    with one_line_errors("a smaller --batch"):
        if given.answers is not None:
            shown = blind.compare(given.out, given.answers)
        else:
            shown = _examine(given, record.command(TASK, arguments))
        sys.stdout.write(shown)


def _examine(given: argparse.Namespace, command: str) -> str:
    if given.model != hub.EMBEDDED:
        raise ValueError(f"--model={given.model} has no judge of its own; give {hub.EMBEDDED}")
    art = Art.load()
    subjects = model.subjects_of(given.edit)
    for one in subjects[1:]:
        several.concept_of(one)  # an edit of none, or of several, is told before any work
    asked = {"model": given.model, "pictures": given.pictures, "blind": given.blind}
    digests = [one.edit.digest() for one in subjects if one.edit is not None]
    out = record.claim(given.out, TASK, {**record.asked(given), "digests": digests})
    _, detector = worlds.task_of(given.model, vocabulary.THINGS[0], pictures=1)
    scenes = scenes_of(given.pictures)
    images = np.stack([render(scene, art) for scene in scenes])
    classes = confused(scenes, _read(detector, images))
    taken = np.random.default_rng(_SEED).permutation(len(images))[:_BROKEN]
    no_pictures = {
        kind: _read(detector, make(images[taken], np.random.default_rng(_SEED)))
        for kind, make in broken.KINDS.items()
    }
    missed = {
        kind: Rate(sum(one.valid for one in found), len(found))
        for kind, found in no_pictures.items()
    }
    shown = table(classes, missed)
    if given.edit:
        shown += blind.paint(given, subjects, detector, out)
    record.write(
        out,
        TASK,
        command=command,
        table=shown,
        protocol={
            **asked,
            "seed": _SEED,
            "detectors": {detector.name: detector.version},
            "versions": versions(),
        },
        classes=[
            {
                "kind": one.kind,
                "class": one.name,
                "recall": one.recall.as_json(),
                "read_as": dict(one.read_as.most_common()),
                "elsewhere": one.elsewhere.as_json(),
            }
            for one in classes
        ],
        broken_read_as_pictures={kind: rate.as_json() for kind, rate in missed.items()},
    )
    return shown


def scenes_of(pictures: int) -> list[Scene]:
    """Scenes of each concept of the world, every second in any style, every fourth with another."""
    rng = np.random.default_rng(_SEED)
    return [
        probes.scene_of(concept, rng, styled=i % 2 == 1, pair=i % 4 == 3)
        for concept in vocabulary.CONCEPTS.values()
        for i in range(pictures)
    ]


def _read(detector: Detector, images_BHWC: np.ndarray) -> Sequence[Reading]:
    return detector(images_BHWC / np.float32(255), [""] * len(images_BHWC))


def confused(scenes: Sequence[Scene], readings: Sequence[Reading]) -> list[Read]:
    """What each class that the scenes show is read as."""
    shown = [scene.labels() for scene in scenes]
    found: dict[tuple[str, str], Counter[str]] = {}
    wrong: Counter[tuple[str, str]] = Counter()
    for labels, reading in zip(shown, readings, strict=True):
        seen = reading.seen if reading.valid else frozenset()
        wrong.update(seen - labels)
        for head, name in labels:
            instead = sorted(other for kind, other in seen - labels if kind == head)
            said = " and ".join(instead) or (NOTHING if reading.valid else NO_PICTURE)
            read_as = name if (head, name) in seen else said
            found.setdefault((head, name), Counter())[read_as] += 1
    return [
        Read(
            _kind(*label),
            label[1],
            read_as,
            Rate(wrong[label], len(scenes) - read_as.total()),
        )
        for label, read_as in sorted(found.items(), key=lambda item: (_kind(*item[0]), item[0]))
    ]


def _kind(head: str, name: str) -> str:
    return head if head == "background" else vocabulary.concept(name).kind


def table(classes: Sequence[Read], missed: dict[str, Rate]) -> str:
    """Markdown: each kind of class, its confusions, classes that are misread, broken pictures."""
    kinds: dict[str, list[Read]] = {}
    for one in classes:
        kinds.setdefault(one.kind, []).append(one)
    rows, matrices = [], ""
    for kind, group in kinds.items():
        right = sum((one.recall for one in group), Rate(0, 0))
        none = Rate(sum(one.read_as[NO_PICTURE] for one in group), right.total)
        elsewhere = sum((one.elsewhere for one in group), Rate(0, 0))
        worst = min(group, key=lambda one: one.recall.percent)
        rows.append(
            [
                *(kind, str(len(group)), _cell(right), _cell(none), _cell(elsewhere)),
                f"{worst.name} {worst.recall.percent:.0f} %",
            ]
        )
        if len(group) <= _FEW:
            matrices += f"\n{kind}, shown (rows) and read (columns):\n\n{_matrix(group)}"
    header = ["kind", "classes", "read right", f"as {NO_PICTURE}", "read elsewhere", "worst class"]
    misread = [
        [one.kind, one.name, _cell(one.recall), one.mistakes]
        for one in sorted(classes, key=lambda one: one.recall.percent)
        if one.recall.hits < one.recall.total
    ]
    return (
        f"{record.markdown(header, rows)}{matrices}\n"
        f"Of {len(classes)} classes {len(misread)} are ever misread:\n\n"
        + record.markdown(["kind", "class", "read right", "instead"], misread)
        + f"\nBroken pictures that are not read as {NO_PICTURE}:\n\n"
        + record.markdown(["kind", "read as a picture"], [[k, _cell(r)] for k, r in missed.items()])
    )


def _matrix(group: Sequence[Read]) -> str:
    every: Counter[str] = sum((one.read_as for one in group), Counter())
    names = [one.name for one in group]
    columns = [*names, *(name for name in every if name not in names)]
    rows = [[one.name, *(str(one.read_as[name] or "") for name in columns)] for one in group]
    return record.markdown(["", *columns], rows)


def _cell(rate: Rate) -> str:
    low, high = rate.interval
    return f"{rate.hits} / {rate.total} ({low:.2f} to {high:.2f} %)"
