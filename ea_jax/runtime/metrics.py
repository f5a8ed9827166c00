"""What a run measures, twice: as TensorBoard events, and as lines of JSON that need no reader.

A resumed run goes on in the same files: what an interrupted one logged after the checkpoint it
is resumed from is dropped, so that every step is there once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from convert.disk import FileError, draft, entry, parse_json, reported
from ea_jax.runtime.events import Events
from ea_jax.runtime.progress import Progress

_log = logging.getLogger(__name__)


def advice_to_lower(rates: str) -> str:
    """What a run does about a term that is no number: learning rates are too high, by name."""
    return f"Lower {rates}, or the weight of that term, and give that run a log.folder of its own"


_ADVICE = advice_to_lower("the learning rate")


class NonFiniteError(FloatingPointError):
    """A term of a loss is no longer a number."""


class MetricsLog:
    """Scalars of one run.

    Args:
      folder: `metrics.jsonl` and `tensorboard/` go here; made if absent.
      start: the step the run starts or resumes at; later lines of an earlier run are dropped.
    """

    def __init__(self, folder: str | Path, *, start: int = 0) -> None:
        self._is_writer = jax.process_index() == 0
        if not self._is_writer:
            return
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        _drop_after(path, start)
        self._lines = path.open("a", encoding="utf-8")
        self._events = Events(folder / "tensorboard", start=start)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Logs named numbers, `{"lower/esd": 0.04}`; only the first host writes.

        Args:
          step: steps done.
          values: scalars, of a device or not; fetching them waits for their step.
        """
        if not self._is_writer:
            return
        numbers = {name: float(np.asarray(value)) for name, value in values.items()}
        # JSON has no NaN: a reader shall see null, not fail.
        plain = {name: v if math.isfinite(v) else None for name, v in numbers.items()}
        with reported(self._lines.name):
            self._lines.write(json.dumps({"step": step, **plain}) + "\n")
            self._lines.flush()
        self._events.scalars(step, numbers)

    def close(self) -> None:
        if self._is_writer:
            try:
                # It writes what is left, once more where that failed.
                with reported(self._lines.name):
                    self._lines.close()
            finally:
                self._events.close()


class Watch:
    """Checks and logs each step's terms while the next step runs: reading them waits for theirs.

    Args:
      metrics: where they are logged.
      progress: where they are shown.
      every: steps between two lines of metrics.
      last: step, which is logged too.
      advice: what the error says to do about NaN or Inf.
    """

    def __init__(
        self,
        metrics: MetricsLog,
        progress: Progress,
        *,
        every: int,
        last: int,
        advice: str = _ADVICE,
    ) -> None:
        self._metrics, self._progress = metrics, progress
        self._every, self._last, self._advice = every, last, advice
        self._waiting: tuple[int, Mapping[str, Mapping[str, Any]]] | None = None

    def add(self, step: int, terms: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes the terms of a step that was dispatched, by level; settles those of the one before.

        Raises:
          NonFiniteError: as `settle`.
        """
        self.settle()
        self._waiting = step, terms

    def settle(self) -> None:
        """Waits for the last step's terms, checks and logs them.

        Raises:
          NonFiniteError: names the step and the term that is NaN or Inf.
        """
        if self._waiting is None:
            return
        (step, terms), self._waiting = self._waiting, None
        levels = {
            level: {name: float(value) for name, value in found.items()}
            for level, found in terms.items()
        }
        flat = {
            f"{level}/{name}": v for level, found in levels.items() for name, v in found.items()
        }
        require_finite(step, flat, advice=self._advice)
        if step % self._every == 0 or step == self._last:
            self._metrics.scalars(step, flat)
        if jax.process_index() == 0:
            self._progress.update(step, levels)


def require_finite(step: int, terms: Mapping[str, Any], *, advice: str = _ADVICE) -> None:
    """Stops a run at the first term that is no number.

    Args:
      step: the step that made the terms.
      terms: scalars by name.
      advice: what the error says to do.
    Raises:
      NonFiniteError: names the step and the term.
    """
    for name, value in terms.items():
        number = float(np.asarray(value))
        if not math.isfinite(number):
            raise NonFiniteError(
                f"{name} is {number} at step {step}; the last checkpoint is from before. {advice}"
            )


def _drop_after(path: Path, start: int) -> None:
    """Keeps the lines up to a step; a line that a kill cut off is dropped with the rest.

    So is a line that can't be read, and what comes after it, with a warning: a log stops no run.
    """
    if not path.exists():
        return
    *lines, _ = path.read_bytes().split(b"\n")
    kept = []
    for line in lines:
        step = _step(line)
        if step is None:
            _log.warning(
                "%s: line %d can't be read; it is dropped, and the %d lines after it",
                path,
                len(kept) + 1,
                len(lines) - len(kept) - 1,
            )
        if step is None or step > start:
            break
        kept.append(line + b"\n")
    with draft(path) as shorter:
        shorter.write_bytes(b"".join(kept))


def _step(line: bytes) -> int | None:
    """The step of a line of the log; None if it can't be read."""
    with contextlib.suppress(FileError):
        return entry(parse_json(line, "", way_out=""), "step", int, where="", way_out="")
    return None
