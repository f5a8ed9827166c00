"""What a run measures, twice: as TensorBoard events, and as lines of JSON that need no reader.

A resumed run goes on in the same files: what an interrupted one logged after the checkpoint it
is resumed from is dropped, so that every step is there once.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorboardX


class NonFiniteError(FloatingPointError):
    """A term of a loss is no longer a number."""


class MetricsLog:
    """Scalars and pictures of one run.

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
        # An event file can't be shortened; its reader drops the steps from `purge_step` on.
        self._events = tensorboardX.SummaryWriter(
            str(folder / "tensorboard"), purge_step=start + 1 if start else None
        )

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
        self._lines.write(json.dumps({"step": step, **plain}) + "\n")
        self._lines.flush()
        for name, value in numbers.items():
            self._events.add_scalar(name, value, step)

    def image(self, step: int, name: str, image_HWC: np.ndarray) -> None:
        """Logs a picture, uint8 [H, W, 3] or float in [0, 1], to TensorBoard alone."""
        if self._is_writer:
            self._events.add_image(name, np.asarray(image_HWC), step, dataformats="HWC")

    def close(self) -> None:
        if self._is_writer:
            self._lines.close()
            self._events.close()


def require_finite(step: int, terms: Mapping[str, Any]) -> None:
    """Stops a run at the first term that is no number.

    Args:
      step: the step that made the terms.
      terms: scalars by name.
    Raises:
      NonFiniteError: names the step and the term.
    """
    for name, value in terms.items():
        number = float(np.asarray(value))
        if not math.isfinite(number):
            raise NonFiniteError(
                f"{name} is {number} at step {step}; the last checkpoint is from before. "
                "Lower optim.lr_lower or optim.lr_upper, or the weight of that term, and give that "
                "run a log.folder of its own"
            )


def _drop_after(path: Path, start: int) -> None:
    """Keeps the lines up to a step; a line that a kill cut off is dropped with the rest."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > start:
            break
        kept.append(line)
    shorter = path.with_suffix(".tmp")
    shorter.write_text("".join(kept), encoding="utf-8")
    os.replace(shorter, path)
