"""train.py with a judge, whose numbers are painted again, and on two hosts."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import socket
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from train_command import command, run, started

from ea_jax import edits
from ea_jax.evaluate_run import evaluate_run
from ea_jax.flux.pipeline import Pipeline

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def judged(finished, model_with_judge) -> Path:
    """A run on a model with a judge, and beside it changes of whole kernels with its config."""
    model, folder = model_with_judge, model_with_judge.parent
    flags = ("--config.sample.eval_pictures=2", "--config.optim.pairs=1")
    done = run(model, folder / "run", finished[1], *flags)
    assert done.returncode == 0, done.stderr
    assert "readings were in" not in done.stderr
    shape = Pipeline(model).template("transformer")["context_embedder"]["kernel"].shape
    kernels = {"context_embedder": {"kernel": np.ones(shape, np.float32)}}
    edits.save(edits.Edit(deltas=kernels), folder / "kernels")
    shutil.copy(folder / "run" / "config.json", folder / "kernels")
    return folder


@pytest.mark.parametrize(
    ("made", "strength", "cached", "same_as"),
    [
        # Painted again, the numbers are the same; at strength 0 they are the base's.
        ("run", None, False, "erased"),
        ("run", 0.0, True, "base"),
        ("kernels", 0.0, True, "base"),
        ("kernels", None, True, None),
    ],
)
def test_with_a_judge_the_base_is_read_once_and_compared_to_each_erasure(
    finished, judged, tmp_path, caplog, made, strength, cached, same_as
):
    """Changes of whole kernels are measured by the same command as a LoRA."""
    first = json.loads((judged / "run" / "results.json").read_text())
    assert first["base"]["Acc_e"]["total"] == 2
    assert first["detector"] == "judge"
    assert "Acc_rest" in (judged / "run" / "results.md").read_text()
    caplog.set_level(logging.INFO)
    changes = {"data": {"cache": str(finished[1] if cached else tmp_path / "empty")}}
    evaluate_run(judged / made, tmp_path / "out", strength=strength, changes=changes)
    kept = re.search(r"base: all \d+ readings were in", caplog.text)
    assert bool(kept) == cached
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert again["base"] == first["base"]
    assert again["erased"]["Acc_e"]["total"] == 2
    assert same_as is None or again["erased"] == first[same_as]


def test_two_hosts_train_the_lora_of_one(finished, tmp_path, dev_folder):
    """Each with half of the base's weights, and all else made by both; the first writes the log."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = command(dev_folder, tmp_path / "run", tmp_path / "cache", "--config.mesh.fsdp=2")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with contextlib.ExitStack() as stack:
        hosts = [
            stack.enter_context(started([*words, f"--hosts=localhost:{port},2,{index}"], **pipes))
            for index in range(2)
        ]
        said = [host.communicate(timeout=300)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    assert ["6/6" in words for words in said] == [True, False]
    theirs, ours = (edits.load(folder).lora() for folder in (finished[0], tmp_path / "run"))
    size = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=0.01 * size), ours, theirs
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [6]
