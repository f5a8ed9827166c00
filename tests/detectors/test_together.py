"""Several detectors as one."""

from __future__ import annotations

import numpy as np

from ea_jax.detectors.together import Together
from ea_jax.evaluate.probes import Reading


class Says:
    def __init__(self, name, *readings):
        self.name, self.version, self._readings = name, f"{name} 1", readings

    def __call__(self, images_BHWC, prompts):
        return self._readings


def test_what_each_sees_is_seen_and_only_what_all_take_for_a_picture_is_one():
    face = Says("face", Reading(frozenset({("celebrity", "Zorg")}), True, {"confidence": 0.9}))
    judge = Says("judge", Reading(frozenset({("object", "bus")}), False, {"agreement": 0.2}))
    both = Together([face, judge])
    (found,) = both(np.zeros((1, 8, 8, 3)), ["a bus"])
    assert found == Reading(
        frozenset({("celebrity", "Zorg"), ("object", "bus")}),
        False,
        {"confidence": 0.9, "agreement": 0.2},
    )
    assert (both.name, both.version) == ("face+judge", "face 1 judge 1")
