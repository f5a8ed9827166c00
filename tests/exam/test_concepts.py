"""Erasing concepts one by one: what is made, what is kept, and the table."""

from __future__ import annotations

import dataclasses
import json

import pytest
from PIL import Image

from convert.disk import FileError
from ea_jax.arguments import Parser
from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.task import Classes
from ea_jax.exam import ablation, concepts, sweep, trials
from ea_jax.exam.model import edit_of
from ea_jax.exam.trials import Result, Trial
from ea_jax.runtime import run_folder
from ea_jax.settings import SettingsError, from_config

CLASSES = Classes({"entity": ("cat", "dog"), "relationship": ("kiss",)}, ("cat", "nude"))


def given(tmp_path, *flags):
    parser = Parser("evaluate toy", "A toy.")
    trials.add_arguments(parser)
    return parser.parse_args([f"--out={tmp_path}", *flags])


def result(word, seed=0, **rates):
    base = {name: Rate(40, 50) for name in rates}
    return Result(Trial("default", word, seed, None, {}), base, rates)


def test_words_are_chosen_by_their_set():
    assert CLASSES.chosen("development") == ("cat", "nude")
    assert CLASSES.chosen("test") == ("dog", "kiss")
    assert CLASSES.chosen("all") == ("cat", "dog", "kiss", "nude")
    assert CLASSES.chosen("kiss, cat,kiss") == ("kiss", "cat")
    assert CLASSES.category("kiss") == "relationship"
    assert CLASSES.category("nude") == "other"
    none = dataclasses.replace(CLASSES, development=())
    with pytest.raises(ValueError, match="no development words here; give --words all, or some of"):
        none.chosen("development")


def test_trials_differ_in_row_word_and_seed_alone(tmp_path):
    rows = {"default": ("", {}), "weak": ("paper", {"optim.lr_lower": 1e-4})}
    made = trials.trials_of(given(tmp_path, "--seeds=0,2", "--pictures=7"), rows, ["cat", "dog"])
    assert [(one.row, one.word, one.seed) for one in made[:3]] == [
        ("default", "cat", 0),
        ("default", "cat", 2),
        ("default", "dog", 0),
    ]
    assert len({one.folder for one in made}) == len(made) == 8
    plain, weak = from_config(made[0].config), from_config(made[-1].config)
    assert (plain.preset, weak.preset) == ("robust", "paper")
    assert (weak.optim.lr_lower, weak.optim.seed, weak.concept.word) == (1e-4, 2, "dog")
    assert plain.sample.eval_pictures == 7
    [zeroed] = trials.trials_of(given(tmp_path), {"": ("zeroed_columns", {})}, ["cat"])
    assert made[0].source == str(made[0].folder)
    assert edit_of(zeroed.source).zeroed == ("cat",)
    with pytest.raises(ValueError, match=r"changes loss.atn, which is no setting"):
        trials.trials_of(given(tmp_path), {"typo": ("", {"loss.atn": 1.0})}, ["cat"])
    with pytest.raises(ValueError, match=r"--set=optim\.seed=7: optim\.seed is set by a flag of"):
        trials.changes(["optim.seed=7"])
    with pytest.raises(SettingsError, match=r"optim\.pairs"):
        trials.trials_of(given(tmp_path), {"float": ("paper", {"optim.pairs": 1e3})}, ["cat"])
    with pytest.raises(
        ValueError, match=r"row .other.: esd\.lr is set, and method\.name = 'uce' doesn't read"
    ):
        trials.trials_of(given(tmp_path), {"other": ("uce", {"esd.lr": 1.0})}, ["cat"])


def test_a_finished_run_is_read_and_not_made_again(tmp_path, monkeypatch):
    (trial,) = trials.trials_of(given(tmp_path), {"default": ("", {})}, ["cat"])
    erased = []

    def erase(config):
        folder = trial.folder
        run_folder.claim(folder, config, may_differ=("log", "ca", "mace"))
        rates = {"Acc_e": Rate(1, 5).as_json()}
        (folder / "results.json").write_text(json.dumps({"base": rates, "erased": rates}))
        (folder / "run.json").write_text("{}")
        erased.append(config["concept"]["word"])
        return 0

    monkeypatch.setattr(trials, "erase", erase)
    for _ in range(2):
        (found,) = trials.run([trial])
        assert found.erased == {"Acc_e": Rate(1, 5)}
    assert erased == ["cat"]
    # A setting of another method is new since then, or has another value.
    config = run_folder.read_config(trial.folder)
    del config["mace"]["rank"]
    config["ca"]["keep"] = 3.0
    run_folder.write_json(trial.folder / run_folder.CONFIG, config)
    trials.run([trial])
    assert erased == ["cat"]
    # Without its last file the run was cut off.
    (trial.folder / "run.json").unlink()
    trials.run([trial])
    assert erased == ["cat", "cat"]
    (trial.folder / "results.json").write_text('{"base": {"Acc_e": 3}, "erased": {}}')
    with pytest.raises(FileError, match="base holds no rates; remove the run's folder"):
        trials.run([trial])


def test_a_signal_ends_the_task(tmp_path, monkeypatch):
    made = trials.trials_of(given(tmp_path), {"default": ("", {})}, ["cat", "dog"])
    monkeypatch.setattr(trials, "erase", lambda config: 143)
    with pytest.raises(SystemExit) as ended:
        trials.run(made)
    assert ended.value.code == 143


def test_a_table_has_words_means_of_categories_and_what_is_missed():
    results = [
        result("cat", Acc_e=Rate(0, 50), Acc_ir=Rate(40, 50)),
        result("cat", seed=1, Acc_e=Rate(10, 50), Acc_ir=Rate(40, 50)),
        result("dog", Acc_e=Rate(2, 50), Acc_ir=Rate(20, 50)),
        result("kiss", Acc_e=Rate(0, 50), Acc_ir=Rate(40, 50)),
    ]
    lines = concepts.table(results, CLASSES).splitlines()
    cells = {line.split(" | ")[1]: line.split(" | ") for line in lines if " | " in line}
    # Ten of a hundred, by both seeds together; the worse seed had ten of fifty.
    assert cells["cat"][2] == "80 → 10.0 (6 to 17, worst 20)"
    assert cells["dog"][2] == "80 → 4.0 (1 to 13)"
    assert cells["mean of 2"][2] == "80.0 → 7.0 (worst 10)"
    assert cells["mean of 3"][2] == "80.0 → 4.7 (worst 10)"
    missed = [line for line in lines if line.startswith("- ")]
    assert missed == [
        "- cat: Acc_e 10.0, wanted at most 5",
        "- dog: Acc_ir 50.0 % of base, wanted at least 97",
    ]
    assert "settings were chosen: cat." in "\n".join(lines)


def test_settings_are_read_from_the_command_line():
    assert trials.changes(["optim.pairs=3", "optim.lr_lower=1e-3", "concept.anchor=empty"]) == {
        "optim.pairs": 3,
        "optim.lr_lower": 1e-3,
        "concept.anchor": "empty",
    }
    assert trials.values(["optim.pairs=3,4"]) == [("optim.pairs", ["3", "4"])]
    for wrong, said in (
        (["pairs=3"], "is no setting; write it like"),
        (["optim.pairs"], "is no setting; write it like"),
        (["optim.pairs=3", "optim.pairs=4"], "given twice"),
    ):
        with pytest.raises(ValueError, match=said):
            trials.values(wrong)
    with pytest.raises(ValueError, match="has several values; give one"):
        trials.changes(["optim.pairs=3,4"])


def test_an_ablations_rows_lack_exactly_the_terms_that_they_do_not_name(tmp_path):
    rows = {row: ("paper", ablation.weights(row)) for row in ablation.PAPER}
    made = trials.trials_of(given(tmp_path), rows, ["Merlin"])
    for trial in made:
        loss = trial.config["loss"]
        there = {term for term in ("esd", "attn", "lora", "rsc") if loss[term]}
        assert there == set(trial.row.split("+"))
        from_config(trial.config)
        ablation.require_weights(trial)
    [off] = trials.trials_of(given(tmp_path), {"esd+lora": ("robust", {})}, ["Merlin"])
    with pytest.raises(ValueError, match="row 'esd\\+lora' names lora, whose weight is 0"):
        ablation.require_weights(off)
    trial = made[3]
    assert trial.row == "esd+rsc"
    trial.folder.mkdir(parents=True)
    log = trial.folder / "metrics.jsonl"
    log.write_text('{"step": 1, "lower/esd": 0.1}\n')
    with pytest.raises(ValueError, match="row 'esd\\+rsc' of 'Merlin' ran without rsc"):
        ablation.require_terms(Result(trial, {}, {}))
    log.write_text('{"step": 1, "lower/esd": 0.1, "upper/rsc": 0.2}\n')
    ablation.require_terms(Result(trial, {}, {}))


@pytest.mark.parametrize("task", [ablation, concepts, sweep], ids=["ablation", "concepts", "sweep"])
def test_a_task_of_trials_says_how_its_rows_were_made(task, tmp_path, monkeypatch, capsys):
    rates = {"Acc_e": Rate(1, 5)}
    monkeypatch.setattr(trials, "run", lambda made: [Result(one, rates, rates) for one in made])
    monkeypatch.setattr(ablation, "require_terms", lambda result: None)
    monkeypatch.setattr(trials, "cost", lambda trial: {"seconds": 1.0, "bytes": 0})
    task.main([f"--out={tmp_path}", "--words=cat", "--seeds=0,2", "--pictures=5"])
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["task"] == task.TASK
    assert found["command"] == (
        f"ea-jax evaluate {task.TASK} --out={tmp_path} --words=cat --seeds=0,2 --pictures=5"
    )
    assert (found["protocol"]["pictures"], found["protocol"]["seeds"]) == (5, [0, 2])
    assert {"versions", "method" if task is not concepts else "clip"} < set(found["protocol"])
    rows = len(ablation.PAPER) if task is ablation else 1
    assert [(one["word"], one["seed"]) for one in found["rows"]] == [("cat", 0), ("cat", 2)] * rows
    assert found["rows"][0]["erased"] == {"Acc_e": Rate(1, 5).as_json()}
    assert capsys.readouterr().out == (tmp_path / "results.md").read_text()


def test_several_methods_stand_side_by_side_with_what_they_took(tmp_path, monkeypatch, capsys):
    def run(made):
        for n, one in enumerate(made):
            one.folder.mkdir(parents=True)
            seconds = {"load": 70.0, "sample": 10.0, "train": 12.0 + n}
            (one.folder / "run.json").write_text(json.dumps({"seconds": seconds}))
            (one.folder / "pytorch_lora_weights.safetensors").write_bytes(bytes(2048))
        return [
            Result(one, {"Acc_e": Rate(4, 5)}, {"Acc_e": Rate(n, 5)}) for n, one in enumerate(made)
        ]

    monkeypatch.setattr(trials, "run", run)
    concepts.main([f"--out={tmp_path}", "--words=cat,nude", "--method=uce,paper", "--pictures=5"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert lines[0].endswith("| seconds | KiB |")
    assert lines[1].startswith("| uce | 2 | 80.0 → 10.0 (worst 20) |")
    assert lines[1].endswith("| 12.5 | 2 |")
    assert lines[2].startswith("| paper | 2 | 80.0 → 50.0 (worst 60) |")
    found = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(one["seconds"], one["bytes"]) for one in found] == [(12 + n, 2048) for n in range(4)]
    (tmp_path / "runs" / "uce" / "cat-0" / "run.json").write_text("{}")
    with pytest.raises(FileError, match="remove the run's folder"):
        trials.cost(trials.trials_of(given(tmp_path), {"uce": ("uce", {})}, ["cat"])[0])


def test_grids_of_all_runs_go_on_one_sheet(tmp_path, monkeypatch):
    """A row a word, a column a method; none where pictures are off."""
    sheets = []
    monkeypatch.setattr(
        *(trials.record, "contact_sheet"),
        lambda path, rows, columns, inches: sheets.append((rows, columns)),
    )
    rows = {"uce": ("uce", {}), "paper": ("paper", {})}
    made = trials.trials_of(given(tmp_path), rows, ["cat", "nude"])
    for shade, one in enumerate(made):
        one.folder.mkdir(parents=True)
        Image.new("RGB", (1440, 400), (shade, 0, 0)).save(one.folder / "grid.png")
    found = [Result(one, {}, {}) for one in made]
    trials.write_sheet(tmp_path / "pictures.png", found)
    ((pictures, columns),) = sheets
    assert columns == ["uce", "paper"]
    reds = {row: [round(255 * p[0, 0, 0]) for p in both] for row, both in pictures.items()}
    assert reds == {"cat\nseed 0": [0, 2], "nude\nseed 0": [1, 3]}
    assert pictures["cat\nseed 0"][0].shape == (200, 720, 3)
    (made[1].folder / "grid.png").unlink()
    trials.write_sheet(tmp_path / "pictures.png", found)
    assert len(sheets) == 1


def test_a_sweep_refuses_words_that_are_kept_for_tests(tmp_path):
    with pytest.raises(SystemExit, match="'apple' is a word for tests"):
        sweep.main([f"--out={tmp_path / 'out'}", "--words=cat,apple", "--set=optim.pairs=1"])
    assert not (tmp_path / "out").exists()
