"""Erasures that a task makes itself: one run for each method, word and seed, one after another.

All run in one process, with programs and what is frozen kept in one cache. A run that is finished
isn't made again; one that was cut off goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convert.disk import FileError, entry, read_json
from ea_jax.arguments import Parser, each, number, text
from ea_jax.erase import erase
from ea_jax.erase_command import CONFIG, slug
from ea_jax.evaluate.metrics import Rate
from ea_jax.exam.model import CACHE
from ea_jax.flux import hub
from ea_jax.runtime import config_file, run_folder

_log = logging.getLogger(__name__)
# The last file that a run writes.
_RECORD, _RESULTS = "run.json", "results.json"
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


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished trial: each metric's rate, of the base and of the erased model."""

    trial: Trial
    base: Rates
    erased: Rates


def add_arguments(parser: Parser) -> None:
    """Adds to a command what a task takes that makes erasures."""
    parser.add(
        "--model", rule=text, default=hub.EMBEDDED, help="flux-tiny, flux-dev or flux-schnell"
    )
    parser.add("--out", rule=text, required=True, help="folder for the results, and the runs")
    parser.add("--seeds", rule=each(number(int, low=0)), default=[0], help="of the runs: 0,1,2")
    parser.add("--pictures", rule=number(int, low=1), default=50, help="for each number")
    parser.add("--cache", rule=text, default=CACHE, help="folder for what can be used again")


def trials_of(
    given: argparse.Namespace,
    rows: Mapping[str, tuple[str, Mapping[str, Any]]],
    words: Sequence[str],
) -> list[Trial]:
    """Trials for each row, word and seed of a command.

    Args:
      given: the arguments of `add_arguments`.
      rows: name -> preset, and what is changed of it: {"loss.attn": 0.0}.
      words: that are erased.
    Raises:
      ValueError: no such model or preset, or a change of a key that isn't there.
    """
    model = "tiny" if given.model == hub.EMBEDDED else given.model
    found = []
    for row, (preset, changes) in rows.items():
        for word in words:
            for seed in given.seeds:
                config = config_file.load(f"{CONFIG}:{model}{preset and '+'}{preset}")
                folder = Path(given.out) / "runs" / slug(row) / f"{slug(word)}-{seed}"
                config.concept.word = word
                config.optim.seed = seed
                config.sample.eval_pictures = given.pictures
                config.data.cache = given.cache
                config.log.folder = str(folder)
                config.log.image_every = 0
                for key, value in changes.items():
                    section, name = key.split(".")
                    if name not in config[section]:
                        raise ValueError(f"row {row!r} changes {key}, which is no setting")
                    config[section][name] = value
                found.append(Trial(row, word, seed, folder, config.to_dict()))
    return found


def run(trials: Sequence[Trial]) -> list[Result]:
    """Makes each erasure that isn't there yet, and reads what was measured.

    Raises:
      SystemExit: a signal stopped a run; the same command goes on.
      ValueError: as `erase`, or a folder that holds another run.
    """
    found = []
    for number_, trial in enumerate(trials, 1):
        if not is_finished(trial):
            _log.info("%d of %d: %s, %r, seed %d", number_, len(trials), *_names(trial))
            if code := erase(dict(trial.config)):
                raise SystemExit(code)
        found.append(read(trial))
    return found


def is_finished(trial: Trial) -> bool:
    """Whether its run's folder holds all that the run leaves.

    Raises:
      ForeignRunError: the folder holds a run of another config.
    """
    taken = run_folder.check(trial.folder, trial.config, may_differ=("log",))
    return taken and (trial.folder / _RECORD).is_file()


def read(trial: Trial) -> Result:
    """What a finished run measured.

    Raises:
      FileError: no results, or damaged ones.
    """
    path = trial.folder / _RESULTS
    way_out = "remove the run's folder, and the same command makes it again"
    stored = read_json(path, way_out=way_out)
    both = []
    for name in ("base", "erased"):
        rates = entry(stored, name, dict, where=path, way_out=way_out)
        try:
            both.append({key: Rate(one["hits"], one["total"]) for key, one in rates.items()})
        except (TypeError, KeyError):
            raise FileError(f"{path}: {name} holds no rates; {way_out}") from None
    return Result(trial, *both)


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
        **{
            name: {metric: rate.as_json() for metric, rate in rates.items()}
            for name, rates in (("base", result.base), ("erased", result.erased))
        },
    }
