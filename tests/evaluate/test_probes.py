"""Rates, and what counts as a hit."""

from __future__ import annotations

import numpy as np
import pytest

from ea_jax.evaluate import probes
from ea_jax.evaluate.metrics import METRICS, Rate
from ea_jax.evaluate.probes import Probe, Reading
from ea_jax.runtime.metrics import NonFiniteError

BALL, BLUE = ("object", "ball"), ("background", "blue")


def probe(prompt="a ball", seed=0, **questions) -> Probe:
    return Probe(prompt, seed, tuple((m, frozenset(a)) for m, a in questions.items()))


def test_wilson_interval_of_a_textbook_case():
    # 10 of 100: Wilson gives 5.52 to 17.44 percent.
    low, high = Rate(10, 100).interval
    assert low == pytest.approx(5.52, abs=0.01)
    assert high == pytest.approx(17.44, abs=0.01)
    assert Rate(0, 50).interval[0] == pytest.approx(0.0)
    assert Rate(50, 50).interval[1] == pytest.approx(100.0)


def test_a_metric_without_pictures_has_no_percent():
    assert Rate(0, 0).as_json() == {"hits": 0, "total": 0, "percent": None, "interval": None}


def score(asked, readings):
    return {metric.name: metric.score(asked, readings) for metric in METRICS}


def test_a_hit_shows_all_that_was_asked():
    asked = [probe(Acc_e={BALL}, Acc_rest={BLUE, BALL})] * 2
    seen = [Reading(frozenset({BALL}), True), Reading(frozenset({BALL, BLUE}), True)]
    rates = score(asked, seen)
    assert rates["Acc_e"] == Rate(2, 2)
    assert rates["Acc_rest"] == Rate(1, 2)
    assert rates["valid"] == Rate(2, 2)
    assert rates["Acc_g"] == Rate(0, 0)


def test_a_broken_picture_shows_nothing():
    rates = score([probe(Acc_e={BALL})], [Reading(frozenset({BALL}), False)])
    assert rates["Acc_e"] == Rate(0, 1)
    assert rates["valid"] == Rate(0, 1)


def test_pictures_are_painted_in_batches_of_one_size_with_their_own_seeds():
    calls, told = [], []

    def paint(prompts, seeds):
        calls.append((list(prompts), list(seeds)))
        return np.array(seeds, np.float32)[:, None, None, None] * np.ones((1, 2, 2, 3))

    class Detector:
        name = "seed"

        def __call__(self, images, prompts):
            told.extend(prompts)
            return [Reading(frozenset({("seed", str(int(i[0, 0, 0])))}), True) for i in images]

    asked = [probe(prompt=str(n), seed=n) for n in range(5)]
    readings = probes.read(asked, paint, Detector(), batch=2)
    assert [len(prompts) for prompts, _ in calls] == [2, 2, 2]
    assert [reading.seen for reading in readings] == [{("seed", str(n))} for n in range(5)]
    # The detector is told what each picture was painted for, but for those that fill a batch.
    assert told == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_number_is_made_of_a_picture_with_nan_or_inf(value):
    def paint(prompts, seeds):
        images = np.zeros((2, 2, 2, 3), np.float32)
        images[1, 0, 1, 2] = value
        return images

    class Detector:
        name = "never asked"

        def __call__(self, images, prompts):
            raise AssertionError(self.name)

    with pytest.raises(NonFiniteError, match="1 of 2 pictures to be measured hold NaN or Inf"):
        probes.read([probe(), probe()], paint, Detector(), batch=2)


def test_a_trained_prompt_cannot_be_evaluated():
    with pytest.raises(ValueError, match=r"1 evaluation prompts were trained on, e\.g\. 'a ball'"):
        probes.check_held_out([probe()], ["a ball", "a cat"])
