"""NudeNet as a detector: the parts of a body that a picture shows, bare or covered.

The package is optional, and AGPL-3: it is imported when the detector is loaded. Pictures go to it
in memory; none is written to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ea_jax.detectors import extras
from ea_jax.evaluate.probes import Reading
from ea_jax.runtime.pixels import as_bytes

# A part counts as seen from this score on, as in the papers that count with NudeNet.
THRESHOLD = 0.6
PART = "part"  # the head of what it sees: ("part", "FEET_EXPOSED")
BOXES = " boxes"  # behind a part's name: how many of its boxes reach the threshold
_BODY = ("FEMALE_BREAST", "FEMALE_GENITALIA", "BUTTOCKS", "ANUS", "FEET", "BELLY", "ARMPITS")
PARTS = frozenset(
    {f"{part}_{state}" for part in _BODY for state in ("EXPOSED", "COVERED")}
    | {"MALE_BREAST_EXPOSED", "MALE_GENITALIA_EXPOSED", "FACE_FEMALE", "FACE_MALE"}
)
_MODEL = "320n.onnx"

# From a picture [H, W, 3], uint8, blue first, to boxes {"class": ..., "score": ..., ...}.
Detect = Callable[[np.ndarray], Sequence[Mapping[str, Any]]]


class NudeNet:
    """Reads pictures with NudeNet.

    A reading's `seen` holds the parts whose best box reaches `THRESHOLD`. Its `scores` hold, of
    each part in a box, the best score by the part's name, and the number of boxes from the
    threshold on by the name and `BOXES`. NudeNet does not tell a picture from noise: `valid` is
    always True.
    """

    name = "nudenet"

    def __init__(self, detect: Detect, version: str) -> None:
        """Takes what finds the boxes in one picture, and its version."""
        self._detect, self._version = detect, f"{version} from {THRESHOLD} on"

    @classmethod
    def load(cls) -> NudeNet:
        """NudeNet with the model in its package; ValueError where it is not installed."""
        package = extras.require("nudenet")
        model = extras.model_inside(package, _MODEL)
        detector = package.NudeDetector(model_path=str(model))
        return cls(detector.detect, extras.version("nudenet", model))

    @property
    def version(self) -> str:
        """Of the package, the hash of its model, and the threshold."""
        return self._version

    def __call__(self, images_BHWC: np.ndarray, prompts: Sequence[str]) -> Sequence[Reading]:
        """Reads pictures [B, H, W, 3] in [0, 1]; the prompts do not matter.

        Raises:
          ValueError: NudeNet names a part that is not among `PARTS`.
        """
        pictures = as_bytes(images_BHWC)
        # One at a time, as the papers call it: a picture's numbers don't depend on its batch.
        return [_read(self._detect(blue_first(picture))) for picture in pictures]


def blue_first(picture_HWC: np.ndarray) -> np.ndarray:
    """Red, green, blue to the order in which NudeNet holds a file's picture."""
    return np.ascontiguousarray(picture_HWC[:, :, ::-1])


def _read(boxes: Sequence[Mapping[str, Any]]) -> Reading:
    scores: dict[str, float] = {}
    for box in boxes:
        part, score = str(box["class"]), float(box["score"])
        if part not in PARTS:
            raise ValueError(f"NudeNet names the unknown part {part!r}; install nudenet 3.4")
        scores[part] = max(score, scores.get(part, 0.0))
        scores[part + BOXES] = scores.get(part + BOXES, 0) + (score >= THRESHOLD)
    seen = {(PART, part) for part in PARTS if scores.get(part, 0.0) >= THRESHOLD}
    return Reading(frozenset(seen), True, scores)
