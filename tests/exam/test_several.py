"""Tasks over several erasures: who is compared, what is asked, the sums, and the tables."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

from ea_jax import edits
from ea_jax.arguments import Parser
from ea_jax.concepts import spans
from ea_jax.evaluate import metrics
from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.probes import Probe
from ea_jax.evaluate.task import Task
from ea_jax.exam import (
    ablation,
    concepts,
    disentangle,
    multi,
    order,
    quality,
    record,
    several,
    trials,
)
from ea_jax.exam.model import BASE

WORDS = ("cat", "kiss")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two edits of flux-tiny that change little, each said to erase a concept."""
    folder = tmp_path_factory.mktemp("runs")
    found = enumerate(WORDS)
    return [
        str(tiny_runs.save(folder / word, word, strength=0.1, seed=seed)) for seed, word in found
    ]


def given(*flags: str, out: str | Path = "out") -> argparse.Namespace:
    parser = Parser("evaluate toy", "A toy.")
    several.add_arguments(parser)
    return parser.parse_args([f"--out={out}", *flags])


def erasures(*flags: str, out: Path) -> several.Erasures:
    return several.erasures(given(*flags, out=out), at_least=2, task="toy")


def probe(label: str, metric: metrics.Metric, seed: int = 0) -> Probe:
    return Probe(f"a {label}", seed, ((metric.name, frozenset({("object", label)})),))


def test_erasures_are_known_by_what_their_edits_erase(runs, tmp_path):
    found = erasures(*(f"--edit={run}" for run in runs), out=tmp_path)
    assert tuple(found.subjects) == tuple(found.tasks) == WORDS
    assert found.detector.name == "judge"
    asked = several.asked(found.tasks["cat"], metrics.CONCEPT.name, 3)
    assert [question for one in asked for question, _ in one.questions] == ["Acc_e"] * 3


def test_erasures_keep_the_strength_that_they_are_given_at(runs, tmp_path):
    found = erasures(f"--edit=weak={runs[0]}@0.5", f"--edit={runs[1]}", out=tmp_path)
    assert [one.strength for one in found.subjects.values()] == [0.5, None]
    _, one, both, _ = multi._subjects(found, [1, 2])
    assert (one.name, one.strength) == ("one edit", 0.5)
    weights = [origin.strength for origin in both.edit.origins()]
    assert weights == [0.5, found.subjects["kiss"].edit.used_strength()]


def test_erasures_that_do_not_go_together_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="either --edit, once for each erasure, or --words"):
        erasures(out=tmp_path)
    with pytest.raises(ValueError, match="1 erasures are given; this task needs 2 or more"):
        erasures(f"--edit={runs[0]}", out=tmp_path)
    with pytest.raises(ValueError, match="two edits erase 'cat'; give one of them"):
        erasures(f"--edit={runs[0]}", f"--edit=again={runs[0]}", out=tmp_path)
    both = edits.save(edits.summed([edits.load(run) for run in runs]), tmp_path / "both")
    with pytest.raises(ValueError, match="this task needs edits of one concept each"):
        erasures(f"--edit={both}", out=tmp_path)


def test_what_changes_no_weights_is_not_summed(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "make", None)
    flags = ["--words=cat,dog", "--method=zeroed_columns", f"--out={tmp_path / 'out'}"]
    with pytest.raises(SystemExit, match="zeroed_columns changes no weights"):
        multi.main(flags)


def test_nothing_is_erased_for_a_model_without_a_detector(dev_folder, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("an erasure was made")

    monkeypatch.setattr(trials, "erase", never)
    flags = [f"--model={dev_folder}", "--words=cat,dog", f"--out={tmp_path / 'out'}"]
    for task in (multi, disentangle, ablation, concepts):
        with pytest.raises(SystemExit, match="comes with no detector, which this task needs"):
            task.main(flags)
    # The same folder takes the mended command.
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--words=cat,zebrafish"], "flux-tiny's world has no concept 'zebrafish'"),
        (["--words=cat,dog", "--size=41"], "height=41 is not a multiple of 8"),
        (["--edit=runs/cat", "--method=esd"], "--method has no effect beside --edit"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_made(
    flags, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(trials, "make", None)
    for task in (multi, disentangle):
        with pytest.raises(SystemExit) as stop:
            task.main([*flags, f"--out={tmp_path / 'out'}"])
        assert said in f"{stop.value.code}{capsys.readouterr().err}"
    assert not (tmp_path / "out").exists()


def test_unrelated_probes_leave_out_every_erased_concept_and_its_nearest():
    def task(word, near, others):
        asked = [probe(word, metrics.CONCEPT), probe(near, metrics.NEAREST)]
        probes = (*asked, *(probe(other, metrics.OTHERS) for other in others))
        return Task("toy", word, probes, metrics.METRICS, ())

    tasks = {
        "cat": task("cat", "dog", ["bus", "kiss", "tram to kiss in"]),
        "kiss": task("kiss", "hug", ["dog", "bus"]),
    }
    assert [one.prompt for one in several.unrelated(tasks)] == ["a bus"]


def test_a_matrix_tells_its_diagonal_from_the_rest():
    base = {"cat": Rate(8, 8), "kiss": Rate(4, 8)}
    matrix = {
        BASE: base,
        "without cat": {"cat": Rate(2, 8), "kiss": Rate(4, 8)},
        "without kiss": {"cat": Rate(4, 8), "kiss": Rate(0, 8)},
    }
    said = disentangle.table(matrix)
    assert "| without cat | 25 | 50 |" in said
    # 25 and 0 % of the base are left on the diagonal, 100 and 50 % beside it.
    assert "leaves 12.5 %, of the others 75.0 %" in said


def test_one_concept_has_no_other_prompt_to_be_exchanged_for(tmp_path):
    with pytest.raises(SystemExit, match="--words=cat is one concept; give two or more"):
        order.main(["--words=cat", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("total", "counts"), [(2, [1, 2]), (4, [1, 3, 4]), (10, [1, 3, 5, 10])])
def test_all_erasures_are_summed_whatever_their_number(total, counts):
    assert multi.counts_for(total) == counts


def test_sums_are_counted_over_the_concepts_that_they_hold():
    rates = {"Acc_ir": Rate(9, 10), "valid": Rate(10, 10)}
    counts = {
        BASE: {**rates, "cat": Rate(8, 8), "kiss": Rate(8, 8)},
        "one edit": {**rates, "cat": Rate(0, 8), "kiss": Rate(8, 8)},
        "sum of 2": {**rates, "cat": Rate(0, 8), "kiss": Rate(2, 8)},
        "mean of 2": {**rates, "cat": Rate(4, 8), "kiss": Rate(6, 8)},
    }
    lines = multi.table(counts, [1, 2], WORDS).splitlines()
    assert "| one edit | 100 → 0.0 (worst 0, cat) | 90.0 → 90.0 | 100.0 → 100.0 |" in lines
    assert any(line.startswith("| sum of 2 | 100 → 12.5 (worst 25, kiss)") for line in lines)
    assert any(line.startswith("| mean of 2 | 100 → 62.5 (worst 75, kiss)") for line in lines)


def test_a_frechet_distance_is_that_of_two_normal_distributions():
    rng = np.random.default_rng(0)
    one_PF, other_PF = rng.normal(size=(50, 4)), 2 * rng.normal(size=(60, 4)) + 1
    c1, c2 = (np.cov(x, rowvar=False) for x in (one_PF, other_PF))
    root = np.sqrt(np.linalg.eigvals(c1 @ c2).real).sum()
    mean = ((one_PF.mean(0) - other_PF.mean(0)) ** 2).sum()
    want = mean + np.trace(c1) + np.trace(c2) - 2 * root
    assert quality.frechet(one_PF, other_PF) == pytest.approx(want)
    assert quality.frechet(one_PF, one_PF) == pytest.approx(0, abs=1e-9)


def test_an_edit_is_compared_with_the_base_on_the_same_pictures():
    rng = np.random.default_rng(0)
    there = rng.normal(size=(40, 3))
    base = rng.normal(size=(40, 3)), rng.uniform(size=40)
    worse = base[0] + 1, base[1] - 0.1
    same, found = (quality.compared(one, base, there) for one in (base, worse))
    assert same["FD"]["low"] == same["FD"]["high"] == same["score"]["high"] == 0
    assert found["FD"]["low"] > 0
    # Every picture's score is lower by the same, so the interval is a point.
    assert found["score"]["low"] == pytest.approx(-0.1)
    assert found["score"]["high"] == pytest.approx(-0.1)


def test_shuffled_prompts_keep_their_concept_and_their_seed():
    ordered = [("soccer ball", Probe(f"a red soccer ball on grass {i}", i, ())) for i in range(9)]
    made = order._shuffled(ordered)
    assert all(spans.occurrences(one.prompt, "soccer ball") for one in made)
    assert [one.seed for one in made] == list(range(9))
    assert sum(a.prompt != b.prompt for (_, a), b in zip(ordered, made, strict=True)) >= 8
    said = order.table([Rate(8, 8), Rate(7, 8), Rate(0, 8)], [0.1, 0.4])
    assert "moves a picture by 25 % of what another prompt does" in said


@pytest.mark.parametrize(
    "task",
    [pytest.param(disentangle, marks=pytest.mark.slow), multi],
    ids=["disentangle", "multi"],
)
def test_a_task_leaves_its_table_its_pictures_and_how_each_was_made(
    task, runs, tmp_path, capsys, monkeypatch
):
    unrelated = several.unrelated
    monkeypatch.setattr(several, "unrelated", lambda tasks: unrelated(tasks)[:2])
    flags = [f"--edit={run}" for run in runs] + [
        f"--out={tmp_path}",
        "--steps=1",
        "--pictures=1",
        "--batch=2",
    ]
    flags += ["--counts=2"] if task is multi else []
    task.main([*flags, f"--cache={tmp_path / 'cache'}"])
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["task"] == task.TASK
    assert found["command"].startswith(f"ea-jax evaluate {task.TASK} --edit=")
    assert set(found["pictures"][0]["read"]) > {BASE}
    assert found["protocol"]["detectors"]["judge"]
    shown = (tmp_path / "results.md").read_text()
    assert shown in capsys.readouterr().out
    assert list(tmp_path.glob("*.png"))


def test_a_folder_is_for_what_was_asked_wherever_and_in_whatever_batches():
    asked = record.asked(given("--edit=a@0.5"))
    assert asked == record.asked(
        given("--edit=a@0.5", "--cache=other", "--batch=1", "--tensor=2", "--pictures=8")
    )
    for flag in ("--pictures=9", "--steps=4", "--edit=b"):
        assert asked != record.asked(given("--edit=a@0.5", flag))
