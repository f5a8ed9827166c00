"""train.py as a user runs it, on a small random pipeline: outputs, resuming, refusals."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import flags
from PIL import Image
from places import ROOT
from train_command import command, run, started

from ea_jax import edits, erase
from ea_jax.evaluate_run import evaluate_run
from ea_jax.flux.pipeline import Pipeline
from ea_jax.runtime.checkpoints import Checkpoints
from ea_jax.runtime.fingerprint import fingerprint_files

pytestmark = pytest.mark.long

OUTPUTS = (
    "pytorch_lora_weights.safetensors",
    "run.json",
    "grid.png",
    "attention.png",
    "results.json",
    "results.md",
    "metrics.jsonl",
)


def test_a_run_leaves_all_its_outputs(finished):
    folder, _ = finished
    for name in OUTPUTS:
        assert (folder / name).stat().st_size > 0
    with Image.open(folder / "grid.png") as grid:
        assert min(grid.size) > 300
    record = json.loads((folder / "run.json").read_text())
    assert (record["config"]["model"]["attention"], record["attention"]) == ("auto", "chunked")
    assert record["config"]["concept"]["word"] == "soccer ball"
    assert record["words"]
    assert record["lora"] == fingerprint_files([folder / "pytorch_lora_weights.safetensors"])
    seeds = record["training_seeds"]["keep"]
    assert (
        len(set(seeds))
        == len(seeds)
        == sum(len(record["words"][name]) for name in ("preserve_prompts", "near_prompts"))
    )
    assert not set(seeds) & set(record["config"]["sample"]["seeds"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 6
    assert {"lower/esd", "upper/keep"} <= set(lines[-1])


def test_one_program_paints_all_pictures_of_a_run(finished):
    """Those to keep, grids, and attention's, by the frozen model and the edited one."""
    said = (finished[1].parent / "said.txt").read_text()
    for program in ("_scan", "_decode", "_shares", "lower_step", "upper_step"):
        assert said.count(f"Finished XLA compilation of jit({program}) in") == 1, program


def test_a_run_on_a_flux_imports_nothing_of_flux_tiny(finished):
    said = (finished[1].parent / "said.txt").read_text().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in said if line.startswith("import time")}
    assert "ea_jax.evaluate.worlds" in imported
    assert not [name for name in imported if name.startswith("ea_jax.flux_tiny")]


def test_without_a_judge_the_results_say_that_nothing_was_measured(finished):
    results = json.loads((finished[0] / "results.json").read_text())
    assert results["detector"] is None
    assert "no detector" in results["reason"]


@pytest.fixture
def in_this_process(monkeypatch) -> None:
    """Lets `erase.main` leave no handlers and no setting of the C library behind."""
    monkeypatch.setattr(erase, "start_program", lambda level=0: None)
    monkeypatch.setattr(erase.memory, "keep_freed", lambda: None)
    parsed_and_run = lambda main, line, flags_parser: sys.exit(main(flags_parser(line)))  # noqa: E731
    monkeypatch.setattr(erase.app, "run", parsed_and_run)


def erase_here(monkeypatch, words: list[str]) -> int:
    """A command in this process, which leaves no flags behind; its exit code.

    Raises:
      SystemExit: it ended in words.
    """
    program, *line = words[1:]
    monkeypatch.setattr(sys, "argv", [program, *line])  # where a config's flags are looked for
    before = set(flags.FLAGS)
    try:
        erase.main(line)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            raise
        return stop.code or 0
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
    raise AssertionError("app.run ends the process")


def without_pairs(words: list[str]) -> list[str]:
    """A command for a method that has no pairs and no inversions."""
    return [w for w in words if not w.startswith(("--config.optim.pairs", "--config.data.inver"))]


def test_a_judge_measures_at_the_end_and_evaluate_reads_the_same(
    in_this_process, model_with_judge, tmp_path, monkeypatch, caplog
):
    cache = tmp_path / "cache"
    flags = (
        "--config.method.name=esd",
        "--config.esd.steps=1",
        "--config.sample.eval_pictures=2",
        "--config.sample.steps=1",
        "--config.log.pictures=none",
    )
    words = without_pairs(command(model_with_judge, tmp_path / "run", cache, *flags))
    assert not erase_here(monkeypatch, words)
    first = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (first["detector"], first["base"]["Acc_e"]["total"]) == ("judge", 2)
    assert "Acc_rest" in (tmp_path / "run" / "results.md").read_text()
    caplog.set_level(logging.INFO)
    evaluate_run(tmp_path / "run", tmp_path / "again")
    # Nothing is painted twice.
    assert set(re.findall(r"(\w+): all \d+ readings were in", caplog.text)) == {"base", "erased"}
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert (again["base"], again["erased"]) == (first["base"], first["erased"])


def test_a_stopped_run_goes_on_to_the_same_lora(
    in_this_process, dev_folder, tmp_path, monkeypatch, caplog
):
    """Told to stop in the middle, a run saves what it has, and says so by its code."""
    flags = ("--config.method.name=esd", "--config.esd.steps=6", "--config.log.pictures=none")

    def erased(name: str) -> int:
        words = command(dev_folder, tmp_path / name, tmp_path / "cache", *flags)
        return erase_here(monkeypatch, without_pairs(words))

    assert not erased("whole")
    save = Checkpoints.save

    def stop(self, step, *saved):
        save(self, step, *saved)
        if step == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", stop)
        assert erased("cut") == 143
    assert not (tmp_path / "cut" / "run.json").exists()
    caplog.set_level(logging.INFO)
    assert not erased("cut")
    assert "goes on after" in caplog.text
    name = "pytorch_lora_weights.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "cuts",
    [(signal.SIGTERM,), (signal.SIGKILL, signal.SIGTERM)],
    ids=["stopped", "killed, then stopped"],
)
def test_a_process_that_was_cut_off_goes_on_to_the_same_lora(finished, tmp_path, dev_folder, cuts):
    """SIGTERM saves first; kill -9 leaves what the last checkpoint holds. Traced, too."""
    whole, cache = finished
    for cut in cuts:
        # Cut off and resumed inside the traced pairs; tracing changes no result.
        words = command(dev_folder, tmp_path / "cut", cache, "--config.log.profile_steps=1:6")
        # Kills it some way into its pairs: once the next checkpoint is there.
        there = len(list((tmp_path / "cut").glob("checkpoints/[0-9]*")))
        limit = time.monotonic() + 200
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with started(words, **quiet) as process:
            while len(list((tmp_path / "cut").glob("checkpoints/[0-9]*"))) <= there:
                assert process.poll() is None
                assert time.monotonic() < limit
                time.sleep(0.02)
            if cut == signal.SIGTERM:
                time.sleep(0.3)  # off the step that was just saved
            process.send_signal(cut)
            assert process.wait() == {signal.SIGKILL: -9, signal.SIGTERM: 143}[cut]
        assert not (tmp_path / "cut" / "run.json").exists()
    done = run(dev_folder, tmp_path / "cut", cache, "--config.log.profile_steps=1:6")
    assert done.returncode == 0, done.stderr
    assert "goes on after" in done.stderr
    assert list((tmp_path / "cut" / "trace").rglob("*.xplane.pb"))
    name = "pytorch_lora_weights.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_the_command_line_paints_what_python_paints(finished, tmp_path, dev_folder):
    """`ea_jax.sample` with a run's folder against a pipeline, an edit and a call to sample."""
    out = tmp_path / "made" / "cat.png"
    words = [
        *(sys.executable, "-m", "ea_jax.sample", "--prompt=a cat", f"--model={dev_folder}"),
        *(f"--lora={finished[0]}", "--strength=0.7", "--seed=3,4", "--steps=2", "--size=32"),
        *("--text_length=16", f"--out={out}"),
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    pipeline = Pipeline.load(dev_folder)
    text, _ = pipeline.encode(["a cat"], max_length=16)
    lora = edits.load(finished[0]).lora(0.7)
    z_BhwC = pipeline.sample(text, seeds=[3, 4], steps=2, height=32, width=32, lora=lora)
    pictures = np.concatenate(list(np.asarray(pipeline.decode(z_BhwC))), axis=1)
    with Image.open(out) as picture:
        found = np.asarray(picture, np.float32) / 255
    assert found.shape == (32, 64, 3)
    np.testing.assert_allclose(found, np.clip(pictures, 0, 1), atol=0.51 / 255)


def refusal(monkeypatch, words: list[str]) -> str:
    """The one line that a command ends in."""
    with pytest.raises(SystemExit) as stop:
        erase_here(monkeypatch, words)
    message = str(stop.value.code)
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


def test_a_folder_of_another_config_is_refused_and_untouched(
    finished, in_this_process, dev_folder, monkeypatch
):
    folder, cache = finished
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    message = refusal(monkeypatch, command(dev_folder, folder, cache, "--config.loss.eta=0.25"))
    assert "loss.eta = 0.0, not 0.25" in message
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_what_is_no_number_is_named_with_its_step_and_never_saved(
    in_this_process, tmp_path, dev_folder, monkeypatch
):
    flags = ("--config.method.name=esd", "--config.esd.lr=1e30", "--config.log.checkpoint_every=1")
    words = command(dev_folder, tmp_path / "nan", tmp_path / "cache", *flags)
    assert "Lower esd.lr, or" in blown_up(monkeypatch, without_pairs(words), tmp_path, "edit")


def blown_up(monkeypatch, words, tmp_path, term):
    """How a command ends whose first step makes a term no number."""
    message = refusal(monkeypatch, words)
    assert message.startswith(f"error: {term} is")
    assert "at step 1;" in message
    assert not (tmp_path / "nan" / "pytorch_lora_weights.safetensors").exists()
    assert not list((tmp_path / "nan").glob("checkpoints/[0-9]*"))
    return message


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "term"), [("lr_lower", "upper/grad_norm"), ("lr_upper", "edit")])
def test_each_levels_rate_shows_in_what_is_no_number(
    finished, in_this_process, tmp_path, dev_folder, monkeypatch, rate, term
):
    """The lower level's blow-up shows in the upper level, the upper's in the edit alone."""
    flags = (f"--config.optim.{rate}=1e30", "--config.log.checkpoint_every=1")
    flags += ("--config.data.inversions=0",)
    words = command(dev_folder, tmp_path / "nan", finished[1], *flags)
    message = blown_up(monkeypatch, words, tmp_path, term)
    assert "Lower optim.lr_lower or optim.lr_upper, or" in message


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.loss.etaa=1", "has no key 'etaa'; did you mean"),
        ("--config.loss.eta=much", "'much' is no number"),
        ("loss.eta=1", "'loss.eta=1' belongs to no flag"),
        ("--config.lora.scope=dual_qkk", "dual_qkk"),
        ("--config.model.attention=chunkd", "chunkd"),
        ("--config.concept.kind=thng", "thng"),
        ("--config.lora.rank=500", "rank 500 is out of range: "),
        ("--config.esd.lr=1e-4", "esd.lr is set, and method.name = 'erase_anything' doesn't"),
        ("--hosts=", "--hosts= is neither"),
        ("--flagfile=absent", "Unable to open flagfile"),
    ],
)
def test_a_wrong_value_ends_in_words_that_name_it(
    in_this_process, tmp_path, dev_folder, monkeypatch, flag, words
):
    message = refusal(
        monkeypatch, command(dev_folder, tmp_path / "wrong", tmp_path / "cache", flag)
    )
    assert words in message
    # Nothing was begun, so the mended command may use the folder.
    assert not (tmp_path / "wrong").exists()
