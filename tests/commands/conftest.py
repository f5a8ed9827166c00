"""What several files take from train.py: a run to its end, and a model with a judge."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import pytest
import train_command

from ea_jax.flux_tiny import judge
from ea_jax.flux_tiny.judge import Judge, JudgeConfig


@pytest.fixture(scope="module")
def finished(tmp_path_factory, dev_folder):
    """A run to its end, and its cache; what it compiled and imported lies beside them."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_LOG_COMPILES", "1")
        patch.setenv("PYTHONPROFILEIMPORTTIME", "1")
        done = train_command.run(dev_folder, folder / "whole", folder / "cache")
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stderr)
    return folder / "whole", folder / "cache"


@pytest.fixture(scope="module")
def model_with_judge(tmp_path_factory, dev_folder) -> Path:
    model = Path(shutil.copytree(dev_folder, tmp_path_factory.mktemp("judged") / "model"))
    config = JudgeConfig(channels=(4, 4, 8), look=8, layout=8)
    Judge(judge.init_weights(config, jax.random.key(0)), config).save(model / "judge")
    return model
