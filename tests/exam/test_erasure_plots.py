"""Plots of tasks that erase by themselves: points, radars, bars."""

from __future__ import annotations

import left_folders as left
import pytest
from seen_page import Seen, page_of

from ea_jax.exam.page import erasures, plots
from ea_jax.exam.page.folders import read as folders_of


def test_many_concepts_are_drawn_as_points_and_their_means_by_method(tmp_path):
    rows = [
        left.erased("robust", "cat", "entity", Acc_e=(0, 50)),
        left.erased("robust", "hug", "relationship", Acc_e=(10, 50), Acc_ir=(44, 55)),
        # Two seeds of one word count together: 10 of 100.
        left.erased("paper", "bus", "entity", Acc_e=(10, 50)),
        left.erased("paper", "bus", "entity", Acc_e=(0, 50)),
    ]
    found = [left.task(tmp_path / name, "concepts", rows=rows[i:]) for i, name in enumerate("ab")]
    seen = Seen(page_of(*found, out=tmp_path))
    labels = [value for _, name, value in seen.attributes if name == "aria-label"][1:]
    assert labels == [
        "Acc_e against Acc_ir, means over words; wanted is the shaded corner",
        "Acc_g against Acc_near, means over words; wanted is the shaded corner",
        "Means of all metrics by method",
        *(f"Erasing against preserving: {method}, {name}" for name in "ab" for method in
          ("robust", "paper")),
    ]  # fmt: skip
    for line in ("robust, a (2 words)", "paper, a (1 word)", "robust, b (1 word)"):
        assert line in seen.words
    # Words that miss what is wanted are named in the plot, others not.
    assert (seen.texts.count("hug"), seen.texts.count("cat"), seen.texts.count("bus")) == (2, 0, 2)


def test_each_method_is_a_point_at_its_means(tmp_path, monkeypatch):
    rows = [
        left.erased(method, word, Acc_e=(hits, 50), Acc_ir=(kept, 55))
        for method, word, hits, kept in (
            *(("robust", "cat", 0, 53), ("robust", "hug", 10, 0)),
            *(("paper", "cat", 5, 53), ("paper", "hug", 5, 53)),
        )
    ]
    drawn = []
    scatter = plots.scatter
    monkeypatch.setattr(
        plots, "scatter", lambda points, **how: drawn.append(points) or scatter(points, **how)
    )
    captions = [caption for _, caption in erasures.methods(
        folders_of([left.task(tmp_path / "out", "concepts", rows=rows)])
    )]  # fmt: skip
    # The base has 53 of 55; half of them are 50 %.
    assert drawn[0] == {"robust": [(10.0, 50.0, "robust")], "paper": [(10.0, 100.0, "paper")]}
    assert captions[0].startswith("Acc_e against Acc_ir, means over 2 words")


def test_names_of_points_do_not_cover_one_another_and_the_worst_stands():
    points = [(20.0, 80.0, "cat"), (20.0, 81.0, "hug"), (90.0, 81.0, "bus"), (20.0, 95.0, "dog")]
    named = plots._legible(points, width=100, height=40)
    assert [name for _, _, name in named] == ["bus", "cat", "dog"]


@pytest.mark.parametrize("task", ["ablation", "sweep"])
def test_rows_of_settings_are_bars_of_all_words_beside_one_base(task, tmp_path):
    rows = [
        left.erased(row, word, Acc_e=(hits, 50))
        for row, hits in (("esd, alone", 4), ("attn+rsc", 0))
        for word in ("cat", "hug")
    ]
    [one] = folders_of([left.task(tmp_path / "out", task, rows=rows)])
    [(group, _), *_] = [(group, row) for row, group in erasures.of(one).items()]
    assert [word.both["erased"]["Acc_e"] for word in group] == [left.Rate(4, 50)] * 2
    gone, kept = erasures.plots_of(one)
    seen = Seen(gone[0])
    assert [seen.texts.count(text) for text in ("base", "esd, alone", "Acc_e", "Acc_ir")] == [
        *(1, 1, 1, 0),
    ]
    assert "Acc_ir" in Seen(kept[0]).texts


def test_rows_of_another_form_are_one_line(tmp_path):
    [one] = folders_of([left.task(tmp_path / "out", "sweep", rows=[{"row": "a", "word": 3}])])
    with pytest.raises(ValueError, match="out, rows, 0: 'word' is a whole number"):
        erasures.of(one)
