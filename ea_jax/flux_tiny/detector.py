"""The judge as evaluation's detector: what it sees in a picture, as (head, label) pairs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ea_jax.evaluate.probes import Reading
from ea_jax.flux_tiny.judge import NONE, Judge
from ea_jax.flux_tiny.vocabulary import BLIND_STYLES
from ea_jax.runtime.fingerprint import fingerprint


class JudgeDetector:
    """Reads pictures with a judge; its labels are those of `Scene.labels`."""

    name = "judge"

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    @property
    def version(self) -> str:
        """Fingerprint of the judge."""
        return self._version

    @functools.cached_property
    def _version(self) -> str:
        return fingerprint(self.judge.weights)

    @classmethod
    def load(cls, folder: str | Path) -> JudgeDetector:
        """Loads the judge of a folder; ValueError if there is none."""
        return cls(Judge.load(folder))

    def features(self, images_BHWC: np.ndarray) -> np.ndarray:
        """What the judge sees before it decides, [B, F]."""
        return self.judge.features(images_BHWC)

    def __call__(self, images_BHWC: np.ndarray, prompts: Sequence[str]) -> Sequence[Reading]:
        """Reads pictures [B, 64, 64, 3] in [0, 1]; scores how well each agrees with its prompt."""
        features_BF = self.judge.features(images_BHWC)
        found = self.judge.probabilities(features_BF)
        agreement_B = self.judge.agreement(features_BF, prompts)
        return [
            self._read({k: v[i] for k, v in found.items()}, float(agreement_B[i]))
            for i in range(len(images_BHWC))
        ]

    def _read(self, found: dict[str, np.ndarray], agreement: float) -> Reading:
        labels = self.judge.labels
        best = {name: labels[name][int(values.argmax())] for name, values in found.items()}
        seen = {
            ("object", name)
            for name, value in zip(labels["object"], found["object"], strict=True)
            if value > 0.5
        }
        seen |= {(h, best[h]) for h in ("style", "relation", "dress") if best[h] != NONE}
        if best["style"] not in BLIND_STYLES:
            seen.add(("background", best["background"]))
        return Reading(frozenset(seen), best["valid"] == "valid", {"agreement": agreement})
