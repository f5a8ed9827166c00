"""Erases a concept: `python train.py --config configs/nudity.py[:variant]`.

Started again with the same config, a run goes on where it was cut off.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from absl import app, flags

from ea_jax import edits, settings
from ea_jax.concepts import held_out
from ea_jax.evaluate import outputs, worlds
from ea_jax.evaluate.probes import check_held_out
from ea_jax.methods import erasure
from ea_jax.painter import Painter
from ea_jax.runtime import compiler, config_file, hosts, lock, memory, run_folder
from ea_jax.runtime.checkpoints import Checkpoints, RestoreError
from ea_jax.runtime.command_line import parse_flags
from ea_jax.runtime.interrupt import Interrupt
from ea_jax.runtime.metrics import MetricsLog, require_finite
from ea_jax.runtime.program import TRAIN_IN_LESS, one_line_errors, start_logging
from ea_jax.runtime.progress import Progress

FLAGS = flags.FLAGS
log = logging.getLogger("ea_jax")
# What a run writes beside config.json.
_FILES = (
    edits.LORA_FILE,
    "metrics.jsonl",
    "grid.png",
    "attention.png",
    "results.json",
    "results.md",
    "run.json",
)
_FOLDERS = ("checkpoints", "tensorboard", "grids", "trace")


def train(config: dict[str, Any]) -> int:
    """Runs an experiment to its end; returns what the shell should see."""
    run = settings.from_config(config)
    with lock.held(run.log.folder):
        return _train(run, config, Path(run.log.folder))


def _train(run: settings.Settings, config: dict[str, Any], folder: Path) -> int:
    run_folder.check(folder, config, may_differ=("log",))
    run_folder.require_kinds(folder, files=_FILES, folders=_FOLDERS)
    compiler.keep_programs(run.data.cache)
    task, detector = worlds.task_for(run)

    def apart(trained: Sequence[str]) -> None:
        check_held_out(task.probes, trained)
        held_out.assert_absent(task.held_out, trained)

    painted = [probe.prompt for probe in task.probes]
    job = erasure.prepare(run, tested=task.held_out, painted=painted, check=apart)
    # A new folder is taken only now: a mistake above leaves it to the command that mends it.
    run_folder.claim(folder, config, may_differ=("log",))
    with (
        jax.set_mesh(job.mesh),
        Checkpoints(folder / "checkpoints", keep=run.log.keep) as checkpoints,
    ):
        painter = outputs.painter_of(job)
        began = time.monotonic()
        state, stopped = _learn(job, folder, checkpoints, painter)
        if stopped:
            return stopped
        trained = time.monotonic()
        edits.save(job.edit(state), folder)
        # What is shown and measured is the file, rounded as it is.
        edit = edits.load(folder)
        outputs.write_grid(folder / "grid.png", painter, job.settings, edit)
        bank = job.batches.bank
        outputs.write_attention(folder / "attention.png", painter, job.settings, bank, edit)
        table = outputs.write_results(
            folder, painter, job.settings, edit, task=task, detector=detector
        )
        seconds = {"train": trained - began, "outputs": time.monotonic() - trained}
        outputs.write_record(folder, job, config, seconds=seconds)
    log.info("%s\n%s", folder / edits.LORA_FILE, table)
    return 0


def _learn(
    job: erasure.Erasure,
    folder: Path,
    checkpoints: Checkpoints,
    painter: Painter,
) -> tuple[Any, int]:
    """All pairs that are left; the last state, and what the shell should see if a signal came."""
    run = job.settings
    state, start = _start(job, checkpoints)
    tracing = False
    progress = Progress(run.optim.pairs, done=start)
    with Interrupt() as interrupt, MetricsLog(folder, start=start) as metrics:
        for step in range(start, run.optim.pairs):
            if step in run.log.profiled() and not tracing:
                jax.profiler.start_trace(folder / "trace")
                tracing = True
            state, terms = job.pair(state, step)
            done, last = step + 1, step + 1 == run.optim.pairs
            require_finite(done, _flat(terms))
            stop = interrupt.requested(done)
            if tracing and (last or stop or done not in run.log.profiled()):
                jax.profiler.stop_trace()
                tracing = False
            if done % run.log.every == 0 or last:
                metrics.scalars(done, _flat(terms))
            if hosts.is_first():
                progress.update(done, {k: _numbers(v) for k, v in terms.items()})
            if done % run.log.checkpoint_every == 0 or last or stop:
                # The last update shows in no term yet.
                require_finite(done, {"lora": optax.tree.norm(state.lora)})
                checkpoints.save(done, state, _origin(job))
            if stop:
                log.warning("stopped after %d pairs; the same command goes on", done)
                return state, interrupt.exit_code
            if run.log.image_every and done % run.log.image_every == 0 and not last:
                progress.break_lines()
                path = folder / "grids" / f"{done:06d}.png"
                outputs.write_grid(path, painter, job.settings, job.edit(state))
    return state, 0


def _start(job: erasure.Erasure, checkpoints: Checkpoints) -> tuple[Any, int]:
    restored = checkpoints.restore(job.template())
    if restored is None:
        return job.initial(), 0
    for what, here in _origin(job).items():
        if (there := restored.metadata.get(what)) != here:
            raise RestoreError(
                f"{checkpoints.folder} was trained on {what} with hash {there}, not {here}; give "
                "those, or another log.folder"
            )
    log.info("goes on after %d pairs", restored.step)
    return restored.state, restored.step


def _origin(job: erasure.Erasure) -> dict[str, str]:
    """What a run may not change on its way: weights, and prompts (words of an endpoint, say)."""
    return {"base": job.base, "prompts": job.batches.bank.digest}


def _flat(terms: dict[str, Any]) -> dict[str, Any]:
    return {f"{level}/{name}": v for level, found in terms.items() for name, v in found.items()}


def _numbers(terms: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in terms.items()}


def main(_: list[str]) -> int:
    start_logging()
    with one_line_errors(TRAIN_IN_LESS):
        hosts.join(FLAGS.hosts)
        if not hosts.is_first():
            start_logging(logging.WARNING)
        memory.keep_freed()
        return train(FLAGS.config.to_dict())
    return 1


if __name__ == "__main__":
    config_file.define()
    flags.DEFINE_string(
        "hosts",
        None,
        f"of several hosts: {hosts.CLUSTER} where JAX finds them (TPU pod, SLURM, GKE, Open MPI), "
        "else ADDRESS:PORT,COUNT,INDEX",
    )
    app.run(main, flags_parser=parse_flags)
