"""Erasures that a task makes itself: one run for each method, word and seed, one after another.

All run in one process, with programs and what is frozen kept in one cache. A run that is finished
isn't made again; one that was cut off goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convert.disk import FileError, entry, read_json
from ea_jax import edits
from ea_jax.arguments import Parser, each, number, text
from ea_jax.erase import erase
from ea_jax.erase_command import CONFIG, slug, variant_of
from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.outputs import versions
from ea_jax.exam import record
from ea_jax.exam.model import CACHE, ZEROED
from ea_jax.flux import hub
from ea_jax.methods.registry import changes_nothing, require_read
from ea_jax.runtime import config_file, run_folder
from ea_jax.settings import SettingsError, from_config

_log = logging.getLogger(__name__)
# The last file that a run writes is its record.
_RECORD, _RESULTS = "run.json", "results.json"
_GRID = "grid.png"
# A grid on a sheet: pixels, and the inches of its place.
_THUMBNAIL, _INCHES = (720, 720), (7.0, 3.5)
_AGAIN = "remove the run's folder, and the same command makes it again"
# Settings that a command's own flags set.
_OF_FLAGS = frozenset(
    ["concept.word", "optim.seed", "sample.eval_pictures", "data.cache", "log.folder", "model.path"]
)
Rates = Mapping[str, Rate]


@dataclasses.dataclass(frozen=True)
class Trial:
    """One erasure.

    Attributes:
      row: what it is of a table, such as its method.
      word: that is erased.
      seed: of everything it draws.
      folder: of its run.
      config: of its run.
    """

    row: str
    word: str
    seed: int
    folder: Path
    config: Mapping[str, Any]

    @property
    def source(self) -> str:
        """What `model.edit_of` reads: the run's folder. Zeroed columns are no file in theirs."""
        if self.config["method"]["name"] == "zeroed_columns":
            return f"{ZEROED}:{self.word}"
        return str(self.folder)


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished trial: each metric's rate, of the base and of the erased model.

    `how` says what the numbers come from, where the run's own folder doesn't.
    """

    trial: Trial
    base: Rates
    erased: Rates
    how: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def add_arguments(parser: Parser) -> None:
    """Adds to a command what a task takes that makes erasures."""
    parser.add(
        "--model",
        rule=text,
        default=hub.EMBEDDED,
        help="flux-tiny, flux-dev, flux-schnell, or a FLUX.1-dev's folder or hub id",
    )
    parser.add("--out", rule=text, required=True, help="folder for the results, and the runs")
    parser.add("--seeds", rule=each(number(int, low=0)), default=[0], help="of the runs: 0,1,2")
    parser.add("--pictures", rule=number(int, low=1), default=50, help="for each number")
    parser.add("--cache", rule=text, default=CACHE, help="folder for what can be used again")


def add_set_argument(parser: Parser) -> None:
    """Adds `--set`, which changes a setting of all trials."""
    parser.add(
        "--set",
        rule=text,
        often=True,
        default=[],
        help="a setting's value: optim.lr_lower=1e-3; may be given several times",
    )


def values(given: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Settings and their values of `--set KEY=VALUE[,VALUE]`.

    Raises:
      ValueError: one without a value, a setting that is given twice, or one that a flag sets.
    """
    found: dict[str, list[str]] = {}
    for one in given:
        key, equals, stated = one.partition("=")
        if not equals or not stated or key.count(".") != 1:
            raise ValueError(f"--set={one} is no setting; write it like optim.lr_lower=1e-3")
        if key in _OF_FLAGS:
            raise ValueError(f"--set={one}: {key} is set by a flag of the command; see its --help")
        if key in found:
            raise ValueError(f"--set={one}: {key} is given twice; give all its values at once")
        found[key] = stated.split(",")
    return list(found.items())


def changes(given: Sequence[str]) -> dict[str, Any]:
    """Settings of `--set KEY=VALUE`, numbers as numbers; errors as `values`."""
    found = {}
    for key, stated in values(given):
        if len(stated) > 1:
            raise ValueError(f"--set={key}={','.join(stated)} has several values; give one")
        found[key] = _value(stated[0])
    return found


def _value(stated: str) -> Any:
    for kind in (int, float):
        try:
            return kind(stated)
        except ValueError:
            continue
    return stated


def trials_of(
    given: argparse.Namespace,
    rows: Mapping[str, tuple[str, Mapping[str, Any]]],
    words: Sequence[str],
    *,
    of_word: Callable[[str], Mapping[str, Any]] = lambda word: {},
) -> list[Trial]:
    """Trials for each row, word and seed of a command.

    Args:
      given: the arguments of `add_arguments`.
      rows: name -> preset, and what is changed of it: {"loss.attn": 0.0}.
      words: that are erased.
      of_word: what a word's own runs are told, which a row may change.
    Raises:
      ValueError: no such model or preset, or a change of a key that isn't there, or that the
        row's method doesn't read.
    """
    variant, path = variant_of(given.model)
    found = []
    for row, (preset, changes) in rows.items():
        for word in words:
            for seed in given.seeds:
                folder = Path(given.out) / "runs" / slug(row) / f"{slug(word)}-{seed}"
                own: dict[str, Any] = {
                    "concept.word": word,
                    "optim.seed": seed,
                    "sample.eval_pictures": given.pictures,
                    "data.cache": given.cache,
                    "log.folder": str(folder),
                    "log.image_every": 0,
                    **({"model.path": path} if path else {}),
                    **of_word(word),
                }
                config: Any = config_file.load(f"{CONFIG}:{variant}{preset and '+'}{preset}")
                config = config.to_dict()
                for key, value in {**own, **changes}.items():
                    section, name = key.split(".")
                    if name not in config.get(section, {}):
                        raise ValueError(f"row {row!r} changes {key}, which is no setting")
                    config[section][name] = value
                try:
                    require_read(config["method"]["name"], config["method"]["plus"], changes)
                except SettingsError as error:
                    raise SettingsError(f"row {row!r}: {error}") from None
                from_config(config)
                found.append(Trial(row, word, seed, folder, config))
    return found


def run(trials: Sequence[Trial]) -> list[Result]:
    """Makes each erasure that isn't there yet, and reads what was measured; errors as `make`."""
    make(trials)
    return [read(trial) for trial in trials]


def make(trials: Sequence[Trial]) -> None:
    """Makes each erasure that isn't there yet.

    Raises:
      SystemExit: a signal stopped a run; the same command goes on.
      ValueError: as `erase`, or a folder that holds another run.
    """
    for number_, trial in enumerate(trials, 1):
        if not is_finished(trial):
            _log.info("%d of %d: %s, %r, seed %d", number_, len(trials), *_names(trial))
            if code := erase(dict(trial.config)):
                raise SystemExit(code)
            # No cycle of objects may hold a whole model while the next one is loaded.
            gc.collect()


def is_finished(trial: Trial) -> bool:
    """Whether its run's folder holds all that the run leaves.

    Raises:
      ForeignRunError: the folder holds a run of another config.
    """
    method = trial.config["method"]
    free = changes_nothing(method["name"], method["plus"])
    taken = run_folder.check(trial.folder, trial.config, may_differ=free)
    return taken and (trial.folder / _RECORD).is_file()


def read(trial: Trial) -> Result:
    """What a finished run measured.

    Raises:
      FileError: no results, or damaged ones.
    """
    path = trial.folder / _RESULTS
    stored = read_json(path, way_out=_AGAIN)
    both = []
    for name in ("base", "erased"):
        rates = entry(stored, name, dict, where=path, way_out=_AGAIN)
        try:
            both.append({key: Rate(one["hits"], one["total"]) for key, one in rates.items()})
        except (TypeError, KeyError):
            raise FileError(f"{path}: {name} holds no rates; {_AGAIN}") from None
    return Result(trial, *both)


def cost(trial: Trial) -> dict[str, float]:
    """What a finished run took, by name.

    Returns:
      `seconds` of its steps, or of its closed form, programs to be compiled among them; of the last
      start where it was cut off. `bytes` of its edit's files, 0 for a setting of the painter.
    Raises:
      FileError: no record, or a damaged one.
    """
    path = trial.folder / _RECORD
    seconds = entry(read_json(path, way_out=_AGAIN), "seconds", dict, where=path, way_out=_AGAIN)
    files = (trial.folder / name for name in (edits.LORA_FILE, edits.DELTA_FILE))
    return {
        "seconds": round(entry(seconds, "train", float, where=path, way_out=_AGAIN), 1),
        "bytes": sum(file.stat().st_size for file in files if file.is_file()),
    }


def write(
    given: argparse.Namespace,
    task: str,
    arguments: Sequence[str],
    results: Sequence[Result],
    *,
    table: str,
    rows: Sequence[Mapping[str, Any]],
    **protocol: Any,
) -> None:
    """Writes what a task of trials leaves in its folder, and shows its table.

    Args:
      given: what the task's command was given; `arguments` are the same as text.
      task: its name.
      results: of its trials, whose grids go on one sheet.
      table: in Markdown.
      rows: of `as_json`.
      protocol: further facts of it.
    """
    record.write(
        Path(given.out),
        task,
        command=record.command(task, arguments),
        table=table,
        protocol={
            **{"pictures": given.pictures, "seeds": given.seeds},
            **protocol,
            "versions": versions(),
        },
        rows=rows,
    )
    sys.stdout.write(table)
    write_sheet(Path(given.out) / "pictures.png", results)


def write_sheet(path: Path, results: Sequence[Result]) -> None:
    """Writes the runs' before/after grids as one picture, unless they were made without.

    A row is a word and a seed, a column a row of the table, so that methods stand side by side.
    """
    columns = list(dict.fromkeys(result.trial.row for result in results))
    rows: dict[str, list[np.ndarray]] = {}
    for result in results:
        trial = result.trial
        if not (trial.folder / _GRID).is_file():
            _log.info("%s has no %s: no sheet of all grids is drawn", trial.folder, _GRID)
            return
        with Image.open(trial.folder / _GRID) as grid:
            grid.thumbnail(_THUMBNAIL)
            picture = np.asarray(grid.convert("RGB"), np.float32) / 255
        rows.setdefault(f"{trial.word}\nseed {trial.seed}", []).append(picture)
    record.contact_sheet(path, rows, columns, inches=_INCHES)


def _names(trial: Trial) -> tuple[str, str, int]:
    return trial.row, trial.word, trial.seed


def as_json(result: Result, **more: Any) -> dict[str, Any]:
    """A result for results.json; `more` are further facts of it."""
    trial = result.trial
    return {
        "row": trial.row,
        "word": trial.word,
        "seed": trial.seed,
        "run": str(trial.folder),
        **more,
        **({"how": dict(result.how)} if result.how else {}),
        **record.rates({"base": result.base, "erased": result.erased}),
    }
