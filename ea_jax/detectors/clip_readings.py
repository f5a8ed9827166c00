"""What CLIP reads in a picture: its class, and how well it agrees with its prompt.

detector = ZeroShot(Clip.load("openai/clip-vit-large-patch14"), class_sets.ENTITY)
readings = detector(images, prompts)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ea_jax.detectors.class_sets import ClassSet
from ea_jax.evaluate.probes import Reading


class Encoder(Protocol):
    """Pictures and texts as unit vectors; `detectors.clip.Clip` is one."""

    @property
    def version(self) -> str: ...
    def picture_vectors(self, images_BHWC: np.ndarray) -> np.ndarray: ...
    def text_vectors(self, prompts: Sequence[str]) -> np.ndarray: ...


class ZeroShot:
    """A picture's class: the one of whose prompt it has the highest cosine.

    Its readings have `seen` = {(the set's name, the class)}, and every class's cosine as a score.
    CLIP takes anything for a picture: they are all valid.

    Args:
      clip: encodes pictures and the classes' prompts.
      classes: to choose from.
    """

    def __init__(self, clip: Encoder, classes: ClassSet) -> None:
        self._clip, self._classes = clip, classes
        self.name = f"clip_{classes.name}"

    @property
    def version(self) -> str:
        """Names CLIP's weights, the classes and their template."""
        return f"{self._clip.version} {self._classes}"

    def __call__(self, images_BHWC: np.ndarray, prompts: Sequence[str]) -> Sequence[Reading]:
        """Reads pictures [B, H, W, 3] in [0, 1]; what they were painted for is not looked at."""
        cosines_BV = self._clip.picture_vectors(images_BHWC) @ self._class_vectors.T
        return [self._read(cosines_V) for cosines_V in cosines_BV]

    def _read(self, cosines_V: np.ndarray) -> Reading:
        best, labels = int(cosines_V.argmax()), self._classes.labels
        scores = dict(zip(labels, map(float, cosines_V), strict=True))
        return Reading(frozenset({(self._classes.name, labels[best])}), True, scores)

    @functools.cached_property
    def _class_vectors(self) -> np.ndarray:
        return self._clip.text_vectors(self._classes.prompts)


class ClipScore:
    """How well a picture agrees with its prompt: 100 max(cosine, 0), in `scores["clip_score"]`.

    Hessel et al., "CLIPScore" (EMNLP 2021), have 2.5 in place of 100, and put "A photo depicts"
    before the prompt; tables of erased models have the plain prompt and 100, as torchmetrics has.

    Args:
      clip: encodes pictures and prompts.
    """

    name = "clip_score"

    def __init__(self, clip: Encoder) -> None:
        self._clip = clip

    @property
    def version(self) -> str:
        """Names CLIP's weights."""
        return self._clip.version

    def __call__(self, images_BHWC: np.ndarray, prompts: Sequence[str]) -> Sequence[Reading]:
        """Reads pictures [B, H, W, 3] in [0, 1], each painted for one of the prompts."""
        if len(prompts) == 0:
            return []
        pictures_BF, texts_BF = (
            self._clip.picture_vectors(images_BHWC),
            self._clip.text_vectors(prompts),
        )
        scores_B = 100 * np.maximum((pictures_BF * texts_BF).sum(-1), 0)
        return [Reading(frozenset(), True, {self.name: float(score)}) for score in scores_B]
