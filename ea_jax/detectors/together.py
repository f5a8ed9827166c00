"""Several detectors as one, so that a picture that all of them read is painted once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ea_jax.evaluate.probes import Detector, Reading


class Together:
    """Reads a picture with each detector; it is valid where it is to all of them.

    Args:
      detectors: whose heads differ, as do the names of their scores.
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._detectors = tuple(detectors)
        self.name = "+".join(one.name for one in detectors)

    @property
    def version(self) -> str:
        """Names each detector's."""
        return " ".join(one.version for one in self._detectors)

    def __call__(self, images_BHWC: np.ndarray, prompts: Sequence[str]) -> Sequence[Reading]:
        """Reads pictures [B, H, W, 3] in [0, 1], each painted for one of the prompts."""
        found = [one(images_BHWC, prompts) for one in self._detectors]
        return [_joined(readings) for readings in zip(*found, strict=True)]


def _joined(readings: Sequence[Reading]) -> Reading:
    scores = {name: value for one in readings for name, value in one.scores.items()}
    seen = frozenset(pair for one in readings for pair in one.seen)
    return Reading(seen, all(one.valid for one in readings), scores)
