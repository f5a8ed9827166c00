"""Erases a concept by any method: `ea-jax erase WORD`, or `--config configs/nudity.py[:variant]`.

Started again with the same config, a run goes on where it was cut off.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import app, flags
from jax.sharding import Mesh

from ea_jax import edits
from ea_jax.concepts import choose, held_out, kept_words, minors
from ea_jax.concepts.forms import AnyOf
from ea_jax.concepts.lexicon import World
from ea_jax.erase_command import flags_of, spelled_out
from ea_jax.evaluate import outputs, worlds
from ea_jax.evaluate.probes import check_held_out
from ea_jax.evaluate.task import Task
from ea_jax.methods import pictures, prepare, registry
from ea_jax.methods.method import Method, Needs
from ea_jax.methods.ready import Ready, initial_state, state_shapes
from ea_jax.painter import Painter
from ea_jax.runtime import compiler, config_file, hosts, lock, memory, run_folder
from ea_jax.runtime.checkpoints import Checkpoints, RestoreError
from ea_jax.runtime.command_line import parse_flags
from ea_jax.runtime.interrupt import Interrupt
from ea_jax.runtime.mesh import put_rows
from ea_jax.runtime.metrics import (
    MetricsLog,
    NonFiniteError,
    Watch,
    advice_to_lower,
    require_finite,
)
from ea_jax.runtime.program import TRAIN_IN_LESS, one_line_errors, start_program
from ea_jax.runtime.progress import Laps, Progress
from ea_jax.settings import Settings, from_config

FLAGS = flags.FLAGS
log = logging.getLogger(__name__)
# The texts of a run, which a later start reads: a source may have changed.
WORDS = "words.json"
# What a run writes beside config.json.
_FILES = (
    WORDS,
    edits.LORA_FILE,
    edits.DELTA_FILE,
    "metrics.jsonl",
    "grid.png",
    "attention.png",
    "results.json",
    "results.md",
    "run.json",
)
_FOLDERS = ("checkpoints", "tensorboard", "grids", "trace")


def erase(config: dict[str, Any], *, changed: Iterable[str] = ()) -> int:
    """Runs an experiment to its end; returns what the shell should see.

    Args:
      config: all sections.
      changed: names of settings that a user set by hand; none may be in a section that only
        another method reads.
    """
    config = spelled_out(config)
    settings = from_config(config)
    registry.require_read(settings.method.name, settings.method.plus, changed)
    with lock.held(settings.log.folder):
        return _erase(settings, config, Path(settings.log.folder))


def _erase(settings: Settings, config: dict[str, Any], folder: Path) -> int:
    may_differ = registry.changes_nothing(settings.method.name, settings.method.plus)
    run_folder.check(folder, config, may_differ=may_differ)
    run_folder.require_kinds(folder, files=_FILES, folders=_FOLDERS)
    compiler.keep_programs(settings.data.cache)
    world = worlds.of_model(settings.model.path, settings.model.revision)
    tasks, detector = worlds.tasks_for(settings)
    entry = registry.chosen(settings)
    model, ready, words = prepared(settings, entry, tasks, world, folder / WORDS)
    method = entry.make(ready)
    settings.log.require_within(method.steps)
    # A new folder is taken only now: a mistake above leaves it to the command that mends it.
    run_folder.claim(folder, config, may_differ=may_differ)
    run_folder.write_json(folder / WORDS, words.as_json())
    with (
        jax.set_mesh(model.mesh),
        Checkpoints(folder / "checkpoints", keep=settings.log.keep) as checkpoints,
    ):
        painter = outputs.painter_of(model)
        began = time.monotonic()
        edit, stopped = _learn(method, ready, model, folder, checkpoints, painter, words.shown)
        if edit is None:
            return stopped
        trained = time.monotonic()
        saved = "no file: a setting of the painter"
        if edit.adapters or edit.deltas:
            saved = edits.save(edit, folder)
            # What is shown and measured is the file, rounded as it is.
            edit = edits.load(folder)
        outputs.write_grid(folder / "grid.png", painter, settings, words.shown, edit)
        outputs.write_attention(folder / "attention.png", painter, settings, ready.bank, edit)
        table = outputs.write_results(
            folder, painter, settings, edit, tasks=tasks, detector=detector
        )
        seconds = {"train": trained - began, "outputs": time.monotonic() - trained}
        outputs.write_record(
            *(folder, model, config),
            words=words.record,
            latent_sets=ready.pictures,
            seconds=seconds,
        )
    log.info("%s\n%s", saved, table)
    return 0


def prepared(
    settings: Settings,
    entry: registry.Entry,
    tasks: Sequence[Task],
    world: World,
    kept: Path | None = None,
) -> tuple[prepare.Loaded, Ready, choose.Words]:
    """All that a run loads, encodes and samples before its first step.

    Args:
      settings, entry, task: of the run.
      world: of its model.
      kept: file with the words of the run's first start, if there was one.
    Returns:
      The model, what its method is made of, and all texts with where they came from.
    Raises:
      ValueError: a model, words or prompts that don't do; the message says what to change.
    """
    laps, needs = Laps(), entry.needs(settings)
    probes = [probe for task in tasks for probe in task.probes]
    tested = tuple(dict.fromkeys(word for task in tasks for word in task.held_out))
    settings, mesh, pipeline = prepare.open_model(settings, columns=needs.columns)
    if kept and kept.exists():
        words = choose.Words.of_json(kept)
    else:
        words = choose.words(settings, world, tested=tested, contrast=needs.contrast)
        asked = AnyOf(tested)
        words = prepare.with_names(
            *(settings, words, pipeline.t5_tokenizer),
            taken=lambda word: bool(asked.first(word) or world.lexicon.kinds(word)),
        )
    choose.report(words)
    prompts = prepare.prompts(settings, words, pipeline.t5_tokenizer)
    listed, words = kept_sentences(world, words, needs)
    texts = (*prompts.texts, *(text for made in listed.values() for text in made))
    check_held_out(probes, texts)
    # What is kept for being in a vocabulary may be asked for, in other sentences.
    held_out.assert_absent(tested, prompts.texts)
    minors.require_adults((*texts, *words.shown))
    bank = prepare.bank(settings, pipeline, prompts, needs)
    vocabulary = prepare.vocabulary(settings, pipeline, listed)
    painted = [*words.shown, *(probe.prompt for probe in probes)]
    model = prepare.load(settings, mesh, pipeline, painted=painted, laps=laps)
    with jax.set_mesh(mesh):
        latent_sets = pictures.latent_sets(
            *(pipeline, bank, needs),
            settings=settings,
            mesh=mesh,
            lora=model.no_edit(),
            fingerprint=model.fingerprint,
        )
    laps.lap("sample")
    template = pipeline.template("transformer")
    ready = Ready(
        *(settings, mesh, model.forward, template, bank, latent_sets),
        *(model.fingerprint, model.base_hash, vocabulary),
    )
    return model, ready, words


def kept_sentences(
    world: World, words: choose.Words, needs: Needs
) -> tuple[dict[str, tuple[str, ...]], choose.Words]:
    """A vocabulary's sentences without what a run erases or asks for as such, and their record."""
    said = words.record["words"]
    avoid = [name for one in said for name in (one["word"], *one["synonyms"], *one["near"])]
    kept = kept_words.sentences(world, needs.vocabulary, avoid=avoid)
    if not kept:
        return kept, words
    record = {**words.record, "kept_words": list(kept)}
    return kept, dataclasses.replace(words, record=record)


def _learn(
    method: Method,
    ready: Ready,
    model: prepare.Loaded,
    folder: Path,
    checkpoints: Checkpoints,
    painter: Painter,
    shown: Sequence[str],
) -> tuple[edits.Edit | None, int]:
    """All steps that are left; the edit, or None and what the shell should see: a signal came."""
    settings, weights = ready.settings, model.weights
    origin = {"base": model.fingerprint, "prompts": ready.bank.digest}
    state, start = _start(method, ready, checkpoints, origin)
    programs = _compiling(method, ready.mesh, state, weights, start)
    tracing = False
    progress = Progress(method.steps, done=start, unit="steps")
    with Interrupt() as interrupt, MetricsLog(folder, start=start) as metrics:
        advice = _advice(settings)
        watch = Watch(metrics, progress, every=settings.log.every, last=method.steps, advice=advice)
        for step in range(start, method.steps):
            if step in settings.log.profiled() and not tracing:
                jax.profiler.start_trace(folder / "trace")
                tracing = True
            try:
                state = method.before(state, weights, step)
            except NonFiniteError:
                # A step that spoiled the state is to blame, and named.
                watch.settle()
                raise
            terms = {}
            for level in method.levels:
                batch = put_rows(ready.mesh, level.batch(step))
                state, terms[level.name] = programs[level.name](state, weights, batch)
            done, last = step + 1, step + 1 == method.steps
            watch.add(done, terms)
            stop = interrupt.requested(done)
            if tracing and (last or stop or done not in settings.log.profiled()):
                watch.settle()
                jax.profiler.stop_trace()
                tracing = False
            if done % settings.log.checkpoint_every == 0 or last or stop:
                watch.settle()
                # The last update shows in no term yet. Some edits take minutes to be made, and a
                # signal leaves seconds.
                made = state if stop else method.edit(state, weights)
                require_finite(done, {"edit": _norm(made)}, advice=advice)
                checkpoints.save(done, state, origin)
            if stop:
                log.warning("stopped after %d steps; the same command goes on", done)
                return None, interrupt.exit_code
            if settings.log.image_every and done % settings.log.image_every == 0 and not last:
                watch.settle()
                progress.break_lines()
                path = folder / "grids" / f"{done:06d}.png"
                outputs.write_grid(path, painter, settings, shown, method.edit(state, weights))
    return method.edit(state, weights), 0


def _norm(made: Any) -> jax.Array:
    """Of all numbers of an edit, or of a state."""
    arrays = (made.adapters, made.deltas) if isinstance(made, edits.Edit) else made
    leaves = [leaf for leaf in jax.tree.leaves(arrays) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return optax.tree.norm(leaves)


def _advice(settings: Settings) -> str:
    """What to do about a term that is no number."""
    section = registry.METHODS[settings.method.name].section
    rates = f"{section}.lr" if section else "optim.lr_lower or optim.lr_upper"
    return advice_to_lower(rates)


def _compiling(method: Method, mesh: Mesh, state: Any, weights: Any, start: int) -> compiler.Ahead:
    """The levels' programs, which compile while `before` searches; none where no step is left."""
    levels = method.levels if start < method.steps else ()
    programs = {
        level.name: (level.step, (state, weights, put_rows(mesh, level.batch(start))))
        for level in levels
    }
    return compiler.Ahead(programs, mesh)


def _start(
    method: Method, ready: Ready, checkpoints: Checkpoints, origin: dict[str, str]
) -> tuple[Any, int]:
    """The state to go on from, and how many steps it has seen.

    `origin` is what a run may not change on its way: weights, and prompts (words of an endpoint,
    say).
    """
    template = state_shapes(method, ready.settings, ready.mesh)
    restored = checkpoints.restore(template)
    if restored is None:
        return initial_state(method, ready.settings, ready.mesh), 0
    for what, here in origin.items():
        if (there := restored.metadata.get(what)) != here:
            raise RestoreError(
                f"{checkpoints.folder} was trained on {what} with hash {there}, not {here}; give "
                "those, or another log.folder"
            )
    log.info("goes on after %d steps", restored.step)
    return restored.state, restored.step


def _run(_: list[str]) -> int:
    """What absl calls with the flags read."""
    start_program()
    with one_line_errors(TRAIN_IN_LESS):
        hosts.join(FLAGS.hosts)
        if not hosts.is_first():
            start_program(logging.WARNING)
        memory.keep_freed()
        return erase(FLAGS.config.to_dict(), changed=config_file.overridden())
    return 1


def main(arguments: Sequence[str], *, name: str = "ea-jax erase") -> None:
    """The command line: flags, or the short form of `erase_command`."""
    arguments = flags_of(arguments)
    config_file.define(arguments)
    flags.DEFINE_string(
        "hosts",
        None,
        f"of several hosts: {hosts.CLUSTER} where JAX finds them (TPU pod, SLURM, GKE, Open MPI), "
        "else ADDRESS:PORT,COUNT,INDEX",
    )
    app.run(_run, [name, *arguments], flags_parser=parse_flags)
