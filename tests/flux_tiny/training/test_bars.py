"""What flux-tiny is measured by: every concept asked, nothing counted that is not a picture."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from ea_jax.evaluate import paths
from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.probes import Reading
from ea_jax.flux_tiny.training import bars, measure
from ea_jax.flux_tiny.training.bars import Demand
from ea_jax.flux_tiny.vocabulary import RELATION_NAMES, STYLE_NAMES, THINGS

CAT, DOG = ("object", "cat"), ("object", "dog")


@pytest.fixture(scope="module")
def demands() -> list[Demand]:
    return bars.demands()


def test_every_concept_is_asked_often_enough(demands):
    def names(bar):
        return [d.name for d in demands if d.bar == bar]

    assert sorted(names("one object")) == sorted(5 * THINGS)
    assert sorted(names("style")) == sorted(20 * STYLE_NAMES)
    assert sorted(names("relation")) == sorted(20 * RELATION_NAMES)
    for bar in ("shuffled words", "misspelled", "two objects"):
        assert sorted(names(bar)) == sorted(THINGS)
    assert set(bars.BARS) == {d.bar for d in demands}


def test_no_two_pictures_share_a_seed_and_the_list_is_the_same_each_time(demands):
    assert len({d.seed for d in demands}) == len(demands)
    assert demands == bars.demands()


def test_a_misspelled_prompt_does_not_name_its_object(demands):
    wrong = [d for d in demands if d.bar == "misspelled" and f" {d.name} " in f" {d.prompt} "]
    assert not wrong


def test_two_objects_are_two(demands):
    assert all(len(d.wanted) == 2 for d in demands if d.bar == "two objects")


@pytest.mark.parametrize(
    ("seen", "valid", "alone", "expected"),
    [
        ({CAT}, True, True, True),
        ({CAT}, False, True, False),
        ({DOG}, True, True, False),
        ({CAT, DOG}, True, True, False),
        ({CAT, DOG}, True, False, True),
    ],
)
def test_a_demand_is_met_by_its_object_alone_in_a_clean_picture(seen, valid, alone, expected):
    demand = Demand("one object", "cat", "a cat", 0, frozenset({CAT}), alone)
    assert measure.met(demand, Reading(frozenset(seen), valid)) is expected


def test_rows_count_hits_and_name_the_worst():
    asked = [Demand("style", n, "p", i, frozenset()) for i, n in enumerate("aabb")]
    row = measure.count_rows(asked, [True, True, True, False])["style"]
    assert (row["hits"], row["total"], row["percent"]) == (3, 4, 75.0)
    assert next(iter(row["worst"].items())) == ("b", 50.0)
    assert "| style | 75.0 |" in measure.bars_table({"style": row})


def test_exchanged_prompts_differ_by_their_concept_alone():
    letters = lambda name: {"input_ids": list(name)}  # noqa: E731
    for e in measure.exchanges(60, letters):
        assert len(e.word) == len(e.other_word) or len(e.word) > 12
        assert e.word in e.prompt
        assert e.other_word in e.other_prompt
        assert e.word not in e.anchor.split()
        assert e.label[1] != e.other_label[1]
        assert e.prompt.split(", ")[-1] == e.anchor.split(" a ")[-1] or "background" in e.anchor


@pytest.mark.parametrize(
    ("theirs", "count", "expected"),
    [([3, 4, 0], 2, [3, 4]), ([3, 4, 0], 1, [3]), ([5, 0, 0], 3, [5, 5, 5]), ([0, 0], 1, [0])],
)
def test_outputs_are_swapped_in_order_and_the_last_one_is_repeated(theirs, count, expected):
    np.testing.assert_array_equal(paths._fill(np.array(theirs), count), expected)


def test_the_path_table_prints_both_concepts_with_their_bars():
    rates = {"swapped": (Rate(1, 10), Rate(8, 10)), "dual": (Rate(5, 10), Rate(0, 10))}
    written = paths.markdown(rates)
    assert "| 10.0 | 80.0 | <= 20, >= 75 | 10 |" in written
    assert "| 50.0 | 0.0 | reported | 10 |" in written


def test_what_the_anchor_row_counts_stands_under_the_pooled_concept():
    """There c is pooled CLIP's concept, and T5 has none."""
    written = paths.markdown({"anchor": (Rate(1, 10), Rate(9, 10))})
    assert "|  | 10.0 | <= 10 | 10 |" in written
    assert "90.0" not in written


class Still:
    """Paints black."""

    painted = 0

    def paint(self, prompts, *, seeds, max_length, guidance):
        Still.painted += len(prompts)
        return np.zeros((len(prompts), 64, 64, 3))


def test_readings_of_another_model_are_refused_and_kept_ones_counted_anew(demands, tmp_path):
    seen = lambda images, prompts: [Reading(frozenset({CAT}), True)] * len(images)  # noqa: E731
    path, how = tmp_path / "readings.jsonl", {"batch": 4, "text_length": 32, "guidance": None}
    wanted = [Demand("one object", "cat", f"a cat {i}", i, frozenset({CAT})) for i in range(6)]
    paint = functools.partial(measure.paint_all, Still(), seen, wanted, path=path, **how)
    assert paint(made_by={"model": "a"}) == [True] * 6
    assert paint(made_by={"model": "a"}) == [True] * 6
    assert Still.painted == 8
    with pytest.raises(ValueError, match="another measurement"):
        paint(made_by={"model": "b"})
