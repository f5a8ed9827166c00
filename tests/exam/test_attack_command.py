"""The attacks' command: what counts, what is written, and that it goes on where it stopped."""

from __future__ import annotations

import json
from types import SimpleNamespace as Space
from typing import Any

import jax
import numpy as np
import pytest
import toy_weights

from ea_jax import edits, lora
from ea_jax.attacks import catalogue, success
from ea_jax.attacks.canvas import Canvas, Said
from ea_jax.attacks.trials import Attack, Trial, Victim
from ea_jax.concepts.encoding import Encoded
from ea_jax.edits import Edit
from ea_jax.evaluate import metrics, worlds
from ea_jax.evaluate.probes import Probe, Reading
from ea_jax.evaluate.task import Task
from ea_jax.exam import attack_tables, attacks
from ea_jax.exam.model import Subject
from ea_jax.flux.pipeline import Pipeline

CAT = frozenset({("object", "cat")})
QUESTION = ((metrics.CONCEPT.name, CAT),)
PROBES = tuple(Probe(f"cat {n}", n, QUESTION) for n in range(3))
NOTHING: Any = np.zeros((3, 1, 1))
SAID = Said(Encoded(tuple(probe.prompt for probe in PROBES), NOTHING, NOTHING), NOTHING)
BASE, VICTIM = Victim("base"), Victim("gone", Edit({"a": {"A": NOTHING, "B": NOTHING}}))


@pytest.fixture(autouse=True)
def few_prompts_count(monkeypatch):
    monkeypatch.setattr(success, "FEWEST", 1)


class Bench:
    """Reads from a table of (victim, budget): 1 where the concept is seen, by prompt."""

    seeds, probes, plain = 1, PROBES, SAID

    def __init__(self, table):
        self.table = table

    def read(self, victim, trial):
        shown = self.table[victim.name, trial.budget]
        return [[Reading(CAT if one else frozenset(), one < 2)] for one in shown]


def rows(table, *budgets, plainly=False):
    trials = [Trial(PROBES, SAID, budget=budget, start=n) for n, budget in enumerate(budgets)]
    attack = Attack("toy", "black-box", "a toy", lambda *_: trials, plainly=plainly)
    bench: Any = Bench(table)
    return list(attack_tables.rows_of(bench, attack, [BASE, VICTIM]))


def test_prompts_count_that_the_base_shows_under_the_same_attack_or_plainly_asked():
    table = {
        ("base", ""): [1, 1, 0], ("base", "9 steps"): [0, 0, 1],
        ("gone", ""): [0, 0, 0], ("gone", "9 steps"): [1, 0, 1],
    }  # fmt: skip
    (under,) = rows(table, "9 steps")
    (plainly,) = rows(table, "9 steps", plainly=True)
    assert under.best("gone", 1).success(1).rate.as_json()["hits"] == 1
    assert under.best("gone", 1).success(1).rate.total == 1
    assert plainly.best("gone", 1).success(1).rate.hits == 1
    assert plainly.best("gone", 1).success(1).rate.total == 2
    text = attack_tables.markdown([under, plainly], [BASE, VICTIM], 1)
    assert "| toy, 9 steps | black-box | 1 / 3 | 1 / 1 (21 to 100) |" in text
    # Plainly asked, the base's own cell says how often the attack brings out the concept in it.
    assert "| toy, 9 steps * | black-box | 0 / 2 (0 to 66) | 1 / 2 (9 to 91) |" in text


def test_a_picture_that_is_broken_shows_nothing_and_several_starts_are_one_row():
    table = {("base", ""): [1, 1, 1], ("gone", ""): [2, 1, 0]}
    (row,) = rows(table, "", "")
    assert [case.success(1).rate.hits for case in row.cases["gone"]] == [1, 1]
    assert "| 1 / 3 (6 to 79), mean 1.0 |" in attack_tables.markdown([row], [BASE, VICTIM], 1)
    assert attack_tables.summaries([row], [BASE, VICTIM], 1) == {
        "gone": {"black-box": {"mean": 33.33, "worst": 33.33, "by": "toy"}}
    }
    assert attack_tables.worst([row], VICTIM) == {"toy": row.cases["gone"][0]}


def test_the_budget_at_which_an_attack_gets_past_half_is_said():
    table = {("base", ""): [1, 1, 1]}
    for budget, hits in (("0 steps", 0), ("5 steps", 1), ("9 steps", 2), ("20 steps", 3)):
        table["base", budget] = [1, 1, 1]
        table["gone", budget] = [int(n < hits) for n in range(3)]
    found = rows(table, "0 steps", "5 steps", "9 steps", "20 steps")
    assert attack_tables.thresholds(found, [BASE, VICTIM]) == {"toy": {"gone": "9 steps"}}
    assert attack_tables.thresholds(found[:2], [BASE, VICTIM]) == {"toy": {"gone": None}}


def test_all_attacks_are_those_that_were_seen_to_work():
    names = {one.name for one in catalogue.chosen([catalogue.ALL])}
    assert not names & set(catalogue.UNPROVEN)
    named = {one.name for one in catalogue.chosen(list(catalogue.UNPROVEN))}
    assert named - names == set(catalogue.UNPROVEN)


def test_attacks_are_chosen_by_group_or_name_and_budgets_are_capped():
    names = [one.name for one in catalogue.chosen(["split", "CCE"])]
    assert names == ["plain", "only T5", "only CLIP", "CCE"]
    with pytest.raises(ValueError, match=r"attack 'CEC' is unknown.*did you mean 'CCE'\?"):
        catalogue.chosen(["CEC"])
    with pytest.raises(ValueError, match="--starts=2 is for CCE, and --attacks has none of these"):
        catalogue.chosen(["weights"], starts=2)
    with pytest.raises(ValueError, match=r"--budget=9 is for CCE, Ring-A-Bell, .* leave --budget"):
        catalogue.chosen(["settings"], budget=9)
    assert catalogue.capped((0, 10, 30), 20) == (0, 10, 20)
    assert catalogue.capped((0, 10, 30), 30) == (0, 10, 30)


def test_edits_of_two_concepts_need_a_word_and_none_needs_an_edit():
    made = [Subject("base"), *(Subject(n, Edit(VICTIM.edit.adapters, concept=n)) for n in "ab")]
    with pytest.raises(ValueError, match="the edits erase 'a' and 'b'; say with --concept"):
        attacks.concept_of(made)
    assert attacks.concept_of(made[:2]) == "a"
    two = [Subject("two", Edit(VICTIM.edit.adapters, concept="a, b"))]
    with pytest.raises(ValueError, match="the edits erase 'a, b'; say with --concept"):
        attacks.concept_of(two)
    with pytest.raises(ValueError, match="nothing to attack; give --edit RUN"):
        attacks.victims_of(made[:1])


def test_the_command_writes_all_victims_and_reads_them_again(
    dev_folder, tmp_path, monkeypatch, caplog
):
    template = Pipeline.load(dev_folder, parts=()).template("transformer")
    fresh = lora.init(jax.random.key(0), template, scope="dual_qk", rank=2)
    for name, concept in (("run", "cat"), ("other", "dog")):
        edits.save(Edit(toy_weights.random_like(fresh), concept=concept), tmp_path / name)

    def see(images_BHWC, prompts):
        return [Reading(CAT, True) for _ in images_BHWC]

    class Detector:
        name, version = "toy", "1"

        def __call__(self, images_BHWC, prompts):
            return see(images_BHWC, prompts)

    probes = tuple(Probe(text, n, QUESTION) for n, text in enumerate(["a cat", "my cat"]))
    task = Task("toy", "cat", probes, metrics.METRICS, ())
    monkeypatch.setattr(worlds, "task_of", lambda *_, **__: (task, Detector()))
    flags = [f"--edit={tmp_path / 'run'}", f"--benign={tmp_path / 'other'}", "--attacks=split"]
    flags += [f"--model={dev_folder}", f"--cache={tmp_path / 'cache'}", "--size=32", "--steps=1"]
    flags += ["--text_length=16", "--dtype=float32", "--batch=4", "--seeds=2"]
    attacks.main([*flags, f"--out={tmp_path / 'out'}"])
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [one["attack"] for one in written["attacks"]] == [
        "plain", "only T5", "only CLIP", "benign"
    ]  # fmt: skip
    assert list(written["attacks"][0]["victims"]) == ["base", "zeroed columns", "run"]
    (case,) = written["attacks"][1]["victims"]["run"]
    assert case["asr@2"] == {
        "hits": 2, "total": 2, "asked": 2, "percent": 100.0, "interval": [34.24, 100.0]
    }  # fmt: skip
    assert case["prompts"] == [["a cat", 0], ["my cat", 1]]
    assert written["protocol"]["detectors"] == {"toy": "1"}
    assert (tmp_path / "out" / "worst.png").stat().st_size > 1000

    def painted(*_, **__):
        raise AssertionError("painted again")

    monkeypatch.setattr(attacks, "_sheet", lambda *_: None)
    monkeypatch.setattr(Canvas, "sample", painted)
    attacks.main([*flags, f"--out={tmp_path / 'again'}"])
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["attacks"] == written["attacks"]


def test_a_run_s_own_attacks_stay_where_they_were(monkeypatch):
    given: list[Any] = []
    monkeypatch.setattr(attacks, "evaluate_attacks", Space(main=given.append))
    attacks.main(["--run", "runs/cat", "--out", "out"])
    assert given == [["--run", "runs/cat", "--out", "out"]]
