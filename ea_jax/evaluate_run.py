"""Evaluates a run's LoRA, or its changes of whole kernels, again, under other conditions.

    ea-jax evaluate --run runs/nudity-tiny --text_length 512 --out runs/nudity-512
    ea-jax evaluate --run runs/nudity-tiny --strength 0.5 --out runs/nudity-half

Painted and judged as at the end of training: base and erased, the same prompts and seeds.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from convert.disk import require_writable
from ea_jax import edits, settings
from ea_jax.arguments import Parser, number, text
from ea_jax.edits import Edit
from ea_jax.evaluate import outputs, worlds
from ea_jax.evaluate.attacks import Attack, attacked, write_attacks
from ea_jax.evaluate.task import Task
from ea_jax.flux.tokens import MAX_T5_LENGTH
from ea_jax.methods import prepare
from ea_jax.runtime import compiler, lock, memory, run_folder
from ea_jax.runtime.program import one_line_errors, start_program
from ea_jax.runtime.progress import Laps
from ea_jax.settings import Settings

log = logging.getLogger(__name__)
Changes = Mapping[str, Mapping[str, Any]]


def evaluate_run(
    run: str | Path,
    out: str | Path,
    *,
    strength: float | None = None,
    changes: Changes | None = None,
    attacks: Sequence[Attack] = (),
) -> str:
    """Paints and judges a finished run's probes; writes config.json, results.json and results.md.

    Under attacks it writes attacks.json and attacks.md in their place.

    Args:
      run: folder of the run, with its config.json and its LoRA, or its changes of whole kernels.
      out: folder for the results, of its own.
      strength: of the edit; None is the recommended one.
      changes: of the run's config, by section: {"model": {"text_length": 512}}.
      attacks: that the concept's prompts are put under, in the place of everything else.
    Returns:
      The Markdown table.
    Raises:
      ValueError: no run is there; its model comes with no judge, or isn't the one that the LoRA was
        made on; or `out` holds another evaluation.
    """
    folder = Path(run)
    edit = edits.load(folder)
    edit.used_strength(strength)
    require_writable(Path(out) / run_folder.CONFIG)
    config = run_folder.read_config(folder, sections=settings.SECTIONS)
    # On the first device, however many it was trained on.
    config["mesh"] = {"data": 1, "fsdp": 1, "tensor": 1}
    for section, values in (changes or {}).items():
        config[section].update(values)
    asked = settings.from_config(config)
    compiler.keep_programs(asked.data.cache)
    tasks, detector = worlds.tasks_for(asked)
    if detector is None:
        raise ValueError(
            f"{asked.model.path} comes with no judge, or sample.eval_pictures is 0; give --pictures"
        )
    write = outputs.write_results
    if attacks:
        write = write_attacks
        tasks = [attacked(task, attack) for attack in attacks for task in tasks]
    with lock.held(out):
        names = [attack.name for attack in attacks]
        conditions = {**config, "strength": strength, **({"attacks": names} if names else {})}
        run_folder.check(out, conditions)
        model = _loaded(folder, edit, asked, tasks)
        # A new folder is taken only now: a mistake above leaves it to the command that mends it.
        run_folder.claim(out, conditions)
        with jax.set_mesh(model.mesh):
            return write(
                Path(out),
                outputs.painter_of(model),
                model.settings,
                edit,
                tasks=tasks,
                detector=detector,
                strength=strength,
            )


def _loaded(folder: Path, edit: Edit, asked: Settings, tasks: Sequence[Task]) -> prepare.Loaded:
    painted = [probe.prompt for task in tasks for probe in task.probes]
    asked, mesh, pipeline = prepare.open_model(asked, columns=False)
    edit.check(pipeline.template("transformer"))
    model = prepare.load(asked, mesh, pipeline, painted=painted, laps=Laps())
    # `model.fingerprint` is what LoRAs carried before their hash was that of any precision.
    if edit.base not in (None, model.fingerprint, model.base_hash):
        raise ValueError(
            f"the edit in {folder} was made on weights with hash {edit.base}, and those of "
            f"{asked.model.path} have {model.base_hash}; "
            "evaluate it on the weights that it was made on"
        )
    return model


def run_command(
    arguments: Sequence[str], *, name: str, about: str, attacks: Sequence[Attack] = ()
) -> None:
    """The command line of this module and of `evaluate_attacks`."""
    parser = Parser(name, about)
    parser.add("--run", rule=text, required=True, help="folder of a finished run")
    parser.add("--out", rule=text, required=True, help="folder for the results")
    parser.add("--strength", rule=number(), help="of the LoRA; its recommended one by default")
    parser.add(
        "--text_length",
        rule=number(int, low=2, high=MAX_T5_LENGTH),
        help="T5 tokens; the run's own by default",
    )
    parser.add(
        "--pictures", rule=number(int, low=1), help="for each number; the run's own by default"
    )
    given = parser.parse_args(arguments)
    changes: dict[str, dict[str, Any]] = {"model": {}, "sample": {}}
    if given.text_length is not None:
        changes["model"]["text_length"] = given.text_length
    if given.pictures is not None:
        changes["sample"]["eval_pictures"] = given.pictures
    start_program()
    with one_line_errors():
        memory.keep_freed()
        table = evaluate_run(
            given.run, given.out, strength=given.strength, changes=changes, attacks=attacks
        )
        log.info("%s\n%s", given.out, table)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    about = "Evaluates a finished run's LoRA again. `ea-jax --help` lists the other evaluations."
    run_command(arguments, name="evaluate", about=about)


if __name__ == "__main__":
    main(sys.argv[1:])
