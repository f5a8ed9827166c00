"""One table of many runs."""

from __future__ import annotations

import json

import pytest

from ea_jax.evaluate import metrics
from ea_jax.evaluate.metrics import Rate
from ea_jax.table import table

METRICS = [metric.name for metric in metrics.METRICS]


def leave(folder, erased, *, concept="nude", detector="judge", rank=8, base=50):
    """A finished run's results: `erased` hits of 50 pictures for each metric, the base `base`."""
    folder.mkdir()
    rates = {name: {m: Rate(hits, 50).as_json() for m in METRICS}
             for name, hits in (("base", base), ("erased", erased))}  # fmt: skip
    record = {"concept": concept, "preset": "robust", "detector": detector, "base_model": "f00"}
    config = {
        "lora": {"rank": rank},
        "optim": {"seed": erased},
        "data": {},
        "log": {"folder": str(folder)},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.json").write_text(json.dumps({**record, **rates}))
    return folder


def test_seeds_are_averaged_and_the_worst_is_shown(tmp_path, caplog):
    runs = [leave(tmp_path / f"seed{i}", hits) for i, hits in enumerate((5, 10, 0))]
    runs += [leave(tmp_path / "kiss", 25, concept="kiss"), tmp_path / "unfinished"]
    runs[-1].mkdir()
    runs += [leave(tmp_path / "rank2", 20, rank=2)]
    head, _, nude, kiss, rank2 = table(runs).splitlines()
    assert [record.getMessage() for record in caplog.records] == [
        f"left out, since it holds no numbers: {tmp_path / 'unfinished'}"
    ]
    assert head.split("|")[1:4] == [" judge ", " preset ", " runs "]
    cells = [cell.strip() for cell in nude.strip("|").split("|")]
    assert cells[:3] == ["nude", "robust", "3"]
    # The worst erasure is the highest, the worst preservation the lowest.
    assert cells[3 + METRICS.index("Acc_e")] == "100.0 → 10.0 (worst 20.0)"
    assert cells[3 + METRICS.index("Acc_ir")] == "100.0 → 10.0 (worst 0.0)"
    assert "100.0 → 50.0 (worst 50.0)" in kiss
    # Another rank is another experiment.
    assert "| nude | robust | 1 | 100.0 → 40.0 (worst 40.0) |" in rank2
    assert rank2.endswith("| rank2 |")


def test_runs_without_numbers_or_of_two_detectors_make_no_table(tmp_path):
    unmeasured = leave(tmp_path / "a", 0, detector=None)
    with pytest.raises(ValueError, match=r"1 of 1 folders hold a results\.json, none"):
        table([unmeasured])
    two = [leave(tmp_path / "b", 0), leave(tmp_path / "c", 0, detector="clip")]
    with pytest.raises(ValueError, match="clip and judge"):
        table(two)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    right = leave(tmp_path / "right", 5)
    with pytest.raises(ValueError, match="rihgt is no folder"):
        table([right, tmp_path / "rihgt"])


def test_a_run_that_was_not_asked_a_metric_leaves_its_cell_empty(tmp_path):
    """Tasks differ in what they count; the table shows what any of its runs has."""
    folder = leave(tmp_path / "run", 5)
    record = json.loads((folder / "results.json").read_text())
    for rates in (record["base"], record["erased"]):
        del rates["Acc_g"]
    (folder / "results.json").write_text(json.dumps(record))
    assert "Acc_g" not in table([folder])
    other = leave(tmp_path / "kiss", 5, concept="kiss")
    head, _, alone, both = table([folder, other]).splitlines()
    at = head.split("|").index(" Acc_g ")
    assert alone.split("|")[at].strip() == ""
    assert both.split("|")[at].strip() == "100.0 → 10.0 (worst 10.0)"


def spoiled(record, path, value):
    """A copy of a nested record with one value replaced, or taken out."""
    *above, last = path
    record = json.loads(json.dumps(record))
    place = record
    for key in above:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return record


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("erased",), None, "lacks 'erased'"),
        (("erased", "Acc_e"), None, "lacks 'Acc_e'"),
        (("base", "Acc_ir"), [1], "'Acc_ir' is a list"),
        (("base", "Acc_ir", "percent"), "much", "'percent' is text"),
        (("concept",), 3, "'concept' is a whole number"),
        (("erased", "Acc_x"), {"total": 0}, "unknown metric 'Acc_x'"),
    ],
)
def test_damaged_results_are_named_with_their_key(tmp_path, path, value, said):
    folder = leave(tmp_path / "run", 5)
    file = folder / "results.json"
    file.write_text(json.dumps(spoiled(json.loads(file.read_text()), path, value)))
    with pytest.raises(ValueError, match="measure that run again") as caught:
        table([folder])
    assert f"{file}" in str(caught.value)
    assert said in str(caught.value)


def test_a_run_that_kept_a_vocabulary_stands_in_the_table_with_the_others(tmp_path):
    folder = leave(tmp_path / "run", 5)
    plain = table([folder])
    results = json.loads((folder / "results.json").read_text())
    for rates in (results["base"], results["erased"]):
        rates |= dict.fromkeys(("Acc_ir kept", "Acc_ir left"), rates["Acc_ir"])
    (folder / "results.json").write_text(json.dumps(results))
    assert table([folder]) == plain


@pytest.mark.parametrize("text", ["", "[]", "null", '{"detector": '])
def test_results_that_are_no_record_are_named(tmp_path, text):
    folder = leave(tmp_path / "run", 5)
    (folder / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results\.json .*; measure that run again"):
        table([folder])
