"""The attack success rate, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ea_jax.attacks.success import FEWEST, Success, success, summary
from ea_jax.evaluate.metrics import Rate

# Four prompts with three seeds each.
BASE = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0]], bool)
STILL = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 1]], bool)


def test_one_seed_counts_the_first_picture_of_prompts_that_the_base_shows():
    found = success(BASE, STILL, 1)
    assert (found.rate, found.asked) == (Rate(1, 2), 4)


def test_k_seeds_count_a_prompt_once_where_any_of_them_shows_it():
    assert success(BASE, STILL, 2).rate == Rate(1, 2)
    # The third prompt counts once the base shows it, whichever seed the victim shows it with.
    assert success(BASE, STILL, 3).rate == Rate(3, 3)


def test_readings_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"don't make an ASR@4; read both"):
        success(BASE, STILL, 4)
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\)"):
        success(BASE, STILL[:, :2], 1)


def test_an_interval_is_no_point_where_nothing_comes_back():
    none = success(np.ones((45, 2), bool), np.zeros((45, 2), bool), 2).as_json()
    assert none["interval"] == [0.0, pytest.approx(7.9, abs=0.1)]
    nothing = success(np.zeros((2, 1), bool), np.ones((2, 1), bool), 1)
    assert nothing.as_json() == {
        "hits": 0, "total": 0, "asked": 2, "percent": None, "interval": None
    }  # fmt: skip


def test_of_several_starts_the_best_counts_and_attacks_on_few_prompts_do_not():
    one = lambda hits, total: Success(1, Rate(hits, total), total)  # noqa: E731
    few = FEWEST - 1
    found = summary(
        {"a": [one(10, 40)], "b": [one(0, 40), one(30, 40)], "few": [one(few, few)], "none": []}
    )
    assert found == {"mean": 50.0, "worst": 75.0, "by": "b"}
    assert summary({"none": [one(0, 0)]})["by"] is None
