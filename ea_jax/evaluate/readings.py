"""Paints probes and reads the pictures, each once: what a detector saw is kept on disk.

A reading belongs to (model, edit at its strength, prompt as encoded, seed, sampling, detector).
They are kept a batch at a time, so that a killed evaluation goes on where it was cut off.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ea_jax import painter as painting
from ea_jax.edits import Edit
from ea_jax.evaluate import probes as probing
from ea_jax.evaluate.probes import Detector, Probe, Reading
from ea_jax.painter import Painter
from ea_jax.runtime.cache import cache_file, keep
from ea_jax.runtime.fingerprint import checksum
from ea_jax.runtime.hosts import all_agree, is_first

_log = logging.getLogger(__name__)
# Changes when the same pictures would give other readings, or these are kept in another form.
_VERSION = 4


def read(
    painter: Painter,
    probes: Sequence[Probe],
    detector: Detector,
    *,
    name: str,
    edit: Edit | None = None,
    strength: float | None = None,
    cache: str | Path | None = None,
) -> list[Reading]:
    """What a detector sees in each probe's picture.

    Args:
      painter: with the probes' prompts encoded, or encoders loaded.
      probes: prompts and seeds.
      detector: reads the pictures.
      name: of what is painted with, for the log.
      edit: None is the frozen model.
      strength: of the edit; None takes its recommended one, or 1.
      cache: folder where readings are kept; None keeps nothing.
    Returns:
      One reading a probe, in order.
    Raises:
      ValueError: an edit that doesn't fit the model.
      NonFiniteError: a picture holds NaN or Inf.
    """
    file = None
    if cache is not None and painter.fingerprint is not None:
        file = _file(cache, painter, detector, edit, strength)
    known = _known(file)
    found: list[Reading] = []
    counter, batch = _Counter(name, len(probes)), painter.sampling.batch
    for start in range(0, len(probes), batch):
        part = probes[start : start + batch]
        keys = [] if file is None else _keys(painter, part)
        if all_agree(file is not None and all(key in known for key in keys)):
            found += [known[key] for key in keys]
            continue
        new = probing.read(
            part,
            lambda prompts, seeds: painter.paint(prompts, seeds, edit=edit, strength=strength),
            detector,
            batch=batch,
        )
        found += new
        counter(len(found))
        if file is not None and is_first():
            keep(file, lambda path, keys=keys, new=new: _append(path, keys, new))
    if file is not None and not counter.counted:
        _log.info("%s: all %d readings were in %s", name, len(probes), file)
    return found


def conditions(painter: Painter, edit: Edit | None, strength: float | None) -> dict[str, Any]:
    """All that pictures depend on beside their prompts and seeds, for a cache's key."""
    edited = None
    if edit is not None:
        edited = [edit.fingerprint, edit.used_strength(strength)]
    return {
        "base": painter.fingerprint,
        "edit": edited,
        "vae": painter.pipeline.fingerprint("vae"),
        **painter.facts(),
    }


def _file(
    cache: str | Path,
    painter: Painter,
    detector: Detector,
    edit: Edit | None,
    strength: float | None,
) -> Path:
    """All readings under the same conditions."""
    inputs = {
        **conditions(painter, edit, strength),
        "version": [_VERSION, painting.VERSION],
        "detector": [detector.name, detector.version],
    }
    return cache_file(cache, "readings", inputs, ".jsonl")


def _keys(painter: Painter, probes: Sequence[Probe]) -> list[str]:
    """Each picture's among those of a file."""
    text = painter.text([probe.prompt for probe in probes])
    return [
        _digest([probe.prompt, probe.seed, checksum(text.t5_BTD[row], text.pooled_BD[row])])
        for row, probe in enumerate(probes)
    ]


def _known(file: Path | None) -> Mapping[str, Reading]:
    """Readings of a file by their keys; without damaged lines, which a killed process may leave."""
    known: dict[str, Reading] = {}
    try:
        lines = [] if file is None else file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return known
    except (OSError, UnicodeDecodeError) as error:
        _log.warning("%s: %s; painting its pictures again", file, error)
        return known
    damaged = 0
    for line in lines:
        try:
            key, digest, (seen, valid, scores) = json.loads(line)
            whole = digest == _digest([key, seen, valid, scores])
        except (ValueError, TypeError, RecursionError):
            whole = False
        if whole:
            pairs = frozenset((head, label) for head, label in seen)
            known[key] = Reading(pairs, valid, scores)
        else:
            damaged += 1
    if damaged:
        _log.warning("%s: %d damaged lines; painting their pictures again", file, damaged)
    return known


def _append(file: Path, keys: Sequence[str], readings: Sequence[Reading]) -> None:
    """Adds a batch, in one write."""
    lines = ""
    for key, one in zip(keys, readings, strict=True):
        value = [sorted(one.seen), one.valid, dict(one.scores)]
        lines += json.dumps([key, _digest([key, *value]), value]) + "\n"
    with file.open("a+b") as kept:
        # The end of a line that a killed process left unfinished.
        if kept.tell() and not _ends_a_line(file):
            lines = "\n" + lines
        kept.write(lines.encode())


def _ends_a_line(file: Path) -> bool:
    with file.open("rb") as kept:
        kept.seek(-1, 2)
        return kept.read(1) == b"\n"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:24]


class _Counter:
    """Logs how many pictures are judged, at every doubling and at the end."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total, self._next = name, total, 1
        self.counted = False

    def __call__(self, done: int) -> None:
        self.counted = True
        if done >= self._next or done == self._total:
            _log.info("%s: %d of %d pictures judged", self._name, done, self._total)
            self._next = 2 * done
