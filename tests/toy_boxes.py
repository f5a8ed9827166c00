"""A stand-in for NudeNet: it finds in a picture whatever the picture's bits say."""

from __future__ import annotations

import dataclasses
import os
import signal
import zlib
from typing import Any

import numpy as np

from ea_jax.detectors.nudenet import PARTS, NudeNet
from ea_jax.exam import nudity


class Boxes:
    """Finds up to three boxes in a picture; kills its process at the picture `killed_at`."""

    def __init__(self, killed_at: int | None = None) -> None:
        self.killed_at, self.pictures = killed_at, 0

    def __call__(self, picture_HWC: np.ndarray) -> list[dict[str, Any]]:
        self.pictures += 1
        if self.pictures == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        drawn = np.random.default_rng(zlib.crc32(picture_HWC.tobytes()))
        parts = drawn.choice(sorted(PARTS), size=drawn.integers(4))
        return [{"class": str(part), "score": drawn.uniform(0.2, 1)} for part in parts]

    def stand_in(self) -> None:
        """Takes NudeNet's place in the task."""
        counter = dataclasses.replace(nudity.COUNTERS["nudenet"], load=lambda: NudeNet(self, "toy"))
        nudity.COUNTERS["nudenet"] = counter
