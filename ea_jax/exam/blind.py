"""Pictures that a person looks at without knowing who painted them, and the judge beside that.

`blind-1.png` and on have the pictures by number, `blind-key.json` what each is and what was read in
it, and `blind-answers.csv` a row for each, to be filled in.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from convert.disk import FileError, draft, entry, read_json
from ea_jax.evaluate import metrics, worlds
from ea_jax.evaluate.metrics import Z95, Rate
from ea_jax.evaluate.probes import Detector, Probe
from ea_jax.exam import csv_file, record, several
from ea_jax.exam.model import BASE, Subject, open_painter
from ea_jax.runtime.run_folder import write_json, write_text

KEY, ANSWERS, AGREEMENT = "blind-key.json", "blind-answers.csv", "blind-agreement.json"
OTHER = ("none", "other")
_SEED = 507
_ACROSS, _DOWN = 8, 5  # pictures of a sheet
_WAY_OUT = "give the folder that --blind filled, as it was"


@dataclasses.dataclass(frozen=True)
class Asked:
    """A picture: by whom, of which concept."""

    subject: Subject
    concept: str
    probe: Probe


def paint(
    given: argparse.Namespace, subjects: Sequence[Subject], detector: Detector, out: Path
) -> str:
    """Paints `given.blind` pictures by the edits and half as many by the base, and reads them.

    Answers that are there already stay.

    Args:
      given: the command's arguments.
      subjects: the base, then edits of one concept each.
      detector: what is compared with a person.
      out: folder for sheets, key and answers.
    Returns:
      What a person is asked, as Markdown.
    Raises:
      ValueError: an edit that erases several concepts, or none that is known.
    """
    asked = list(_asked(given, subjects))
    asked = [asked[i] for i in np.random.default_rng(_SEED).permutation(len(asked))]
    prompts = several.prompts_of([one.probe for one in asked])
    painter = open_painter(given, prompts, subjects)
    pictures: dict[int, np.ndarray] = {}
    read: dict[int, Any] = {}
    for subject in subjects:
        mine = [number for number, one in enumerate(asked) if one.subject is subject]
        if not mine:
            continue
        texts = [asked[number].probe.prompt for number in mine]
        seeds = [asked[number].probe.seed for number in mine]
        images = painter.paint(texts, seeds, edit=subject.edit, strength=subject.strength)
        pictures |= zip(mine, images, strict=True)
        read |= zip(mine, detector(images, texts), strict=True)
    every = range(len(asked))
    for sheet, first in enumerate(every[:: _ACROSS * _DOWN], 1):
        numbers = every[first : first + _ACROSS * _DOWN]
        _sheet(out / f"blind-{sheet}.png", {n + 1: pictures[n] for n in numbers})
    write_json(
        out / KEY,
        {
            "protocol": record.protocol_of(painter, subjects, [detector]),
            "pictures": [
                {
                    "number": number + 1,
                    "by": one.subject.name,
                    "concept": one.concept,
                    "prompt": one.probe.prompt,
                    "seed": one.probe.seed,
                    "seen": sorted(read[number].seen),
                    "valid": read[number].valid,
                    "shows": bool(metrics.CONCEPT.score([one.probe], [read[number]]).hits),
                }
                for number, one in enumerate(asked)
            ],
        },
    )
    if not (out / ANSWERS).exists():
        lines = [f"{number},\n" for number in range(1, len(asked) + 1)]
        write_text(out / ANSWERS, "number,seen\n" + "".join(lines))
    words = list(dict.fromkeys(one.concept for one in asked))
    return (
        f"\nLook at blind-1.png and on, and write into {ANSWERS} which of these each picture "
        f"shows: {', '.join(words)}; `{'` or `'.join(OTHER)}` where it shows none of them, and "
        "`;` between several. Then give the file back with --answers.\n"
    )


def _asked(given: argparse.Namespace, subjects: Sequence[Subject]) -> Iterator[Asked]:
    """The edits' pictures in turn; after two of an edit's, one by the base of the same word."""
    base, *edited = subjects
    for place, subject in enumerate(edited):
        own = len(range(place, given.blind, len(edited)))
        word = several.concept_of(subject)
        # Prompts and seeds that no other edit's pictures have, nor a run's own evaluation.
        task, _ = worlds.task_of(given.model, word, pictures=own + own // 2, seed=_SEED + place)
        for number, probe in enumerate(several.asked(task, metrics.CONCEPT.name)):
            yield Asked(subject if number < own else base, word, probe)


def _sheet(path: Path, pictures: dict[int, np.ndarray]) -> None:
    figure = Figure(figsize=(1.3 * _ACROSS, 1.55 * _DOWN), dpi=120)
    axes = figure.subplots(_DOWN, _ACROSS).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (number, picture) in zip(axes, pictures.items(), strict=False):
        axis.imshow(np.clip(picture, 0, 1), interpolation="nearest")
        axis.set_title(str(number), fontsize=9)
    figure.tight_layout(pad=0.5)
    with draft(path) as unfinished:
        figure.savefig(unfinished, format="png")


def compare(out: str | Path, answers: str | Path) -> str:
    """Compares a person's answers with the judge's; writes blind-agreement.json.

    Args:
      out: folder with the key.
      answers: CSV file, `number,seen`.
    Returns:
      The Markdown table.
    Raises:
      FileError: no key, or an answer that is none; names the line and the value.
    """
    pictures = _key(Path(out) / KEY)
    seen = _answers(answers, pictures)
    answered = [one for one in pictures if one["number"] in seen]
    found = {}
    for who, part in (
        ("edits", [one for one in answered if one["by"] != BASE]),
        (BASE, [one for one in answered if one["by"] == BASE]),
        ("all", answered),
    ):
        pairs = [(one["concept"] in seen[one["number"]], one["shows"]) for one in part]
        found[who] = agreement(pairs)
    write_json(
        Path(out) / AGREEMENT,
        {"answered": len(answered), "pictures": len(pictures), "agreement": found},
    )
    rows = [[who, *map(_said, numbers.values())] for who, numbers in found.items()]
    header = ["pictures by", "both see it", "person alone", "judge alone", "neither", "agree"]
    return (
        record.markdown([*header, "Cohen's kappa", "its 95 %"], rows)
        + f"\n{len(answered)} of {len(pictures)} pictures are answered.\n"
    )


def _key(path: Path) -> list[dict[str, Any]]:
    """The pictures of a key; FileError where one lacks what is compared."""
    checked = functools.partial(entry, where=path, way_out=_WAY_OUT)
    pictures = checked(read_json(path, way_out=_WAY_OUT), "pictures", list)
    for number, one in enumerate(pictures):
        fields = checked({f"picture {number}": one}, f"picture {number}", dict)
        for name, kind in (("number", int), ("by", str), ("concept", str), ("shows", bool)):
            checked(fields, name, kind)
    return pictures


def agreement(pairs: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    """How often two agree whether something is there.

    Args:
      pairs: what the one says and the other.
    Returns:
      Counts, the rate of agreement, Cohen's kappa and its 95 % interval by the large-sample error
      (Cohen 1960); None where chance alone would agree always.
    """
    both, first, second, neither = (
        pairs.count(pair) for pair in itertools.product((True, False), repeat=2)
    )
    rate = Rate(both + neither, len(pairs))
    kappa = interval = None
    if total := len(pairs):
        agreed = rate.hits / total
        one, other = (both + first) / total, (both + second) / total
        chance = one * other + (1 - one) * (1 - other)
        if chance < 1:
            kappa = (agreed - chance) / (1 - chance)
            half = Z95 * math.sqrt(agreed * (1 - agreed) / total) / (1 - chance)
            interval = [round(max(-1.0, kappa - half), 3), round(min(1.0, kappa + half), 3)]
            kappa = round(kappa, 3)
    return {
        **{"both": both, "person": first, "judge": second, "neither": neither},
        **{"agree": rate.as_json(), "kappa": kappa, "interval": interval},
    }


def _answers(path: str | Path, pictures: Sequence[dict[str, Any]]) -> dict[int, set[str]]:
    """What is seen by number, without those that are left open."""
    numbers = {str(one["number"]) for one in pictures}
    allowed = {one["concept"].casefold(): one["concept"] for one in pictures}
    allowed |= {word: word for word in OTHER}
    found: dict[int, set[str]] = {}
    for line, values in csv_file.rows(path, "seen", of="words"):
        where = f"{path}, line {line}"
        number = values.get("number", "").strip()
        if number not in numbers or int(number) in found:
            raise FileError(f"{where}: number {number!r} is no picture's, or is there twice")
        words = [word.strip().casefold() for word in values["seen"].split(";") if word.strip()]
        if wrong := next((word for word in words if word not in allowed), None):
            raise FileError(f"{where}: {wrong!r} is none of {', '.join(allowed.values())}")
        if words:
            found[int(number)] = {allowed[word] for word in words}
    if not found:
        raise FileError(f"{path} has no answers; fill in the column 'seen'")
    return found


def _said(value: Any) -> str:
    if isinstance(value, dict):
        low, high = value["interval"] or (math.nan, math.nan)
        return f"{value['hits']} / {value['total']} ({low:.0f} to {high:.0f} %)"
    if isinstance(value, list):
        return f"{value[0]:.2f} to {value[1]:.2f}"
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
