"""Table 2 (right) on a FLUX: CLIP's score and FID of pictures of captions, base and edits.

A picture is read in memory and dropped. Its score and its Inception features are kept, some
hundred pictures at a time, so that a killed task goes on; FID is computed from what was kept.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ea_jax import painter as painting
from ea_jax.concepts import minors
from ea_jax.concepts.array_cache import cached
from ea_jax.detectors import fid
from ea_jax.detectors.clip import Clip
from ea_jax.detectors.clip_readings import ClipScore
from ea_jax.detectors.fid import Inception
from ea_jax.evaluate import readings, report
from ea_jax.exam import record
from ea_jax.exam.asked import asked_of
from ea_jax.exam.distances import beside, frechet
from ea_jax.exam.model import BASE, Subject, open_painter, subjects_of
from ea_jax.exam.prompt_file import Row
from ea_jax.painter import Painter
from ea_jax.runtime import lock
from ea_jax.runtime.fingerprint import checksum

TASK = "quality"
# Pictures that are kept at once. A multiple of usual batches: with a smaller --batch a task that is
# started again finds what was kept.
PART = 96
# Changes when the same pictures would give other numbers.
_VERSION = 1
_SHOWN = 8


def evaluate(given: argparse.Namespace, command: str) -> str:
    """Paints captions, reads their pictures, and writes what a task leaves.

    Args:
      given: the arguments of `evaluate quality`.
      command: its line, for the record.
    Returns:
      The Markdown table.
    Raises:
      ValueError: captions, a CLIP, a folder of pictures, an edit or a model that won't do, or
        torch-fidelity is not installed. Told before anything is painted.
    """
    asked = asked_of(given.prompts, given.pictures)
    subjects = subjects_of(given.edit)
    score = ClipScore(Clip.load(given.clip))
    inception, files = None, []
    if given.reference is not None:
        files, _ = fid.check(given.reference)
        inception = Inception.load(given.inception)
    detectors = [score, *([inception] if inception else [])]
    with lock.held(given.out):
        painter = open_painter(given, [row.prompt for row in asked.rows], subjects)
        side = painter.sampling.side(painter.pipeline)
        protocol = {
            **record.protocol_of(painter, subjects),
            "detectors": {one.name: one.version for one in detectors},
            "prompts": {**asked.facts(), "limit": given.pictures},
            "reference": None if inception is None else {"pictures": len(files), "side": side},
        }
        out = record.claim(given.out, TASK, protocol)
        there_PF = inception and _reference(files, side, inception, given.cache)
        read = functools.partial(_read, painter, asked.rows, score, inception, given.cache)
        seen = {one.name: read(one) for one in subjects}
        found = {name: _measured(one, seen[BASE], there_PF) for name, one in seen.items()}
        _write_sheet(out / "pictures.png", painter, subjects, asked.rows[:_SHOWN])
        shown = f"{table(found, len(asked.rows), len(files))}\n{asked.told}.\n"
        record.write(
            out,
            TASK,
            command=command,
            table=shown,
            protocol=protocol,
            quality=found,
            left_out=asked.left_out_lines(),
            prompts=[[row.prompt, row.seed] for row in asked.rows],
            scores={name: [round(float(x), 3) for x in one["score"]] for name, one in seen.items()},
        )
    return shown


Seen = Mapping[str, np.ndarray]


def _read(
    painter: Painter,
    rows: Sequence[Row],
    score: ClipScore,
    inception: Inception | None,
    cache: str,
    one: Subject,
) -> Seen:
    """What is seen in a subject's pictures: `score` [P], and `features` [P, F] where asked for."""
    names = ("score", "features") if inception else ("score",)
    conditions = readings.conditions(painter, one.edit, one.strength)
    parts = []
    # Whole batches: a picture's last bits may depend on how many are painted with it.
    step = painter.sampling.batch * max(1, PART // painter.sampling.batch)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        prompts, seeds = [row.prompt for row in part], [row.seed for row in part]
        text = painter.text(prompts)
        inputs = {
            **conditions,
            "version": [_VERSION, painting.VERSION],
            "detectors": [score.version, inception and inception.version],
            "asked": [prompts, seeds, checksum(text.t5_BTD, text.pooled_BD)],
        }

        def make(prompts=prompts, seeds=seeds) -> tuple[np.ndarray, ...]:
            images = painter.paint(prompts, seeds, edit=one.edit, strength=one.strength)
            found = [reading.scores[score.name] for reading in score(images, prompts)]
            scores_P = np.array(found, np.float32)
            return (scores_P, inception.features(images)) if inception else (scores_P,)

        what = f"{one.name}: pictures {start + 1} to {start + len(part)} of {len(rows)}"
        parts.append(cached(cache, inputs, make, names=names, kind="quality", what=what))
    joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    return dict(zip(names, joined, strict=True))


def _reference(files: Sequence[Path], side: int, inception: Inception, cache: str) -> np.ndarray:
    """Features [P, F] of the pictures that FID is measured to, resized and cropped to a side."""
    parts = []
    for start in range(0, len(files), PART):
        part = files[start : start + PART]
        inputs = {
            "version": _VERSION,
            "files": [hashlib.sha256(file.read_bytes()).hexdigest() for file in part],
            "side": side,
            "inception": inception.version,
        }
        what = f"reference: pictures {start + 1} to {start + len(part)} of {len(files)}"
        parts += cached(
            *(cache, inputs, lambda part=part: (inception.features(fid.read(part, side)),)),
            names=("features",),
            kind="reference",
            what=what,
        )
    return np.concatenate(parts)


def _measured(one: Seen, base: Seen, there_PF: np.ndarray | None) -> dict[str, Any]:
    """CLIP's score beside the base's, and FID where there is a reference."""

    def mean(seen: Seen, rows: Any) -> float:
        return float(seen["score"][rows].mean())

    found: dict[str, Any] = {"score": beside(mean, one, base, len(base["score"]))}
    if there_PF is not None:
        # No interval: each of some hundred draws would take as long as the distance itself.
        found["FID"] = frechet(one["features"], there_PF)
    return found


def table(found: Mapping[str, Mapping[str, Any]], pictures: int, reference: int) -> str:
    """A Markdown table, and what is to be known of its numbers.

    Args:
      found: by subject; `score` as of `distances.beside`, and `FID` where it was measured.
      pictures: of each subject.
      reference: pictures that FID is measured to; 0 where it is left out.
    """
    rows, base = [], found[BASE]
    for name, one in found.items():
        score = one["score"]
        cells = [f"{score['value']:.2f}", f"{one['FID']:.2f}" if reference else "left out"]
        if name != BASE:
            cells[0] += f" ({score['low']:+.2f} to {score['high']:+.2f})"
            cells[1] += f" ({one['FID'] - base['FID']:+.2f})" if reference else ""
        rows.append([name, *cells, f"{pictures:,}"])
    said = ["In brackets: how far from the base; of the CLIP score the 95 % interval."]
    if not reference:
        said.append("FID is left out: it needs --reference, a folder of pictures.")
    elif min(pictures, reference) < fid.FEATURES:
        said.append(
            f"FID of {pictures:,} pictures and {reference:,} others, fewer than {fid.FEATURES:,}, "
            "is too high, and can be compared only with one of as many."
        )
    header = ["", "CLIP score (high is good)", "FID (low is good)", "pictures"]
    return f"{record.markdown(header, rows)}\n{' '.join(said)}\n"


def _write_sheet(
    path: Path, painter: Painter, subjects: Sequence[Subject], rows: Sequence[Row]
) -> None:
    """Paints the first pictures once more, since none was kept; pixelated where about nudity."""
    prompts, seeds = [row.prompt for row in rows], [row.seed for row in rows]
    texts = [*prompts, *(one.edit.concept or "" for one in subjects if one.edit)]
    bare = any(map(minors.nudity_in, texts))
    sheet = {}
    for one in subjects:
        images = painter.paint(prompts, seeds, edit=one.edit, strength=one.strength)
        sheet[one.name] = list(report.pixelated(images) if bare else images)
    record.contact_sheet(path, sheet, prompts)
