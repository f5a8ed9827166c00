"""Attacks on an edit, from either file that holds some: what was tried, and how often it worked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ea_jax import edits
from ea_jax.edits import DELTA_FILE, LORA_FILE
from ea_jax.evaluate.attacks import BLACK_BOX
from ea_jax.evaluate.metrics import Rate
from ea_jax.exam.page.folders import Attacked, Examined, Rates, Run, entry_of, rate_of

TASK = "attacks"
# Stands first in both files, and is no attack.
PLAIN = BLACK_BOX[0].name
_BLACK_BOX, _ONE_SEED = "black-box", "asr@1"
_BUDGET = re.compile(r"\d+(?:\.\d+)?")

Curve = list[tuple[float, Rate]]


@dataclasses.dataclass(frozen=True)
class Attempts:
    """Attacks on one edit.

    Attributes:
      name: of the edit, on the page.
      word: that they ask for.
      source: folder of the attacked run, or its file; None where the attacked is no edit.
      strength: as it was asked for; None is the edit's recommended one.
      used: strength that was used, where the file has that one instead.
      black: success rates, of one seed a prompt, of attacks that need no weights.
      other: of those that see or change the model, or begin from a picture.
      curves: success rates by what was spent, of attacks with several budgets.
    """

    name: str
    word: str
    source: str | None
    black: Rates
    other: Rates
    curves: dict[str, Curve] = dataclasses.field(default_factory=dict)
    strength: float | None = None
    used: float | None = None

    def is_on(self, run: Run) -> bool:
        """Whether a run is what was attacked, at the strength that it was measured at."""
        if self.source is None:
            return False
        source, here = Path(self.source), run.folder.resolve()
        if self.source != run.source and here not in (source.resolve(), source.resolve().parent):
            return False
        measured = run.config.get("strength")
        if self.used is None:
            return self.strength == measured
        if measured is not None:
            return self.used == measured
        there = any((run.folder / name).is_file() for name in (LORA_FILE, DELTA_FILE))
        return there and self.used == edits.load(run.folder).used_strength()


def of(found: Iterable[Any]) -> list[Attempts]:
    """All attempts of what was read; of a task of attacks, those on each of its victims."""
    every: list[Attempts] = []
    for one in found:
        if isinstance(one, Attacked):
            every += [
                Attempts(
                    *(one.name, word, one.source, _attacks(rates), {}),
                    strength=one.config.get("strength"),
                )
                for word, rates in one.rates.items()
            ]
        elif isinstance(one, Examined) and one.task == TASK:
            every += _victims(one)
    return every


def _attacks(rates: Rates) -> Rates:
    return {name: rate for name, rate in rates.items() if name != PLAIN}


def _victims(task: Examined) -> list[Attempts]:
    where = f"{task.folder}, attacks"
    protocol = entry_of(task.results, "protocol", dict, where=where)
    word = entry_of(protocol, "concept", str, where=where)
    made_of = entry_of(protocol, "edits", dict, where=where)
    rows = entry_of(task.results, "attacks", list, where=where)
    found: dict[str, Attempts] = {}
    for number, row in enumerate(rows):
        here = f"{where}, {number}"
        attack = entry_of({"row": row}, "row", dict, where=here)
        name, kind = (entry_of(attack, key, str, where=here) for key in ("attack", "kind"))
        victims = entry_of(attack, "victims", dict, where=here)
        for victim in victims:
            cases = entry_of(victims, victim, list, where=here)
            rates = [_rate(case, f"{here}, {victim!r}") for case in cases]
            # Of several starts the best counts, as an attacker would have it.
            best = max((r for r in rates if r.total), key=lambda r: r.percent, default=Rate(0, 0))
            edit = dict(made_of.get(victim) or {})
            mine = found.setdefault(
                victim,
                Attempts(*(victim, word, edit.get("source"), {}, {}), used=edit.get("strength")),
            )
            if name == PLAIN:
                continue
            budget = attack.get("budget")
            label = f"{name}, {budget}" if budget else name
            (mine.black if kind == _BLACK_BOX else mine.other)[label] = best
            if budget and (spent := _BUDGET.search(str(budget))):
                mine.curves.setdefault(name, []).append((float(spent[0]), best))
    return list(found.values())


def _rate(case: Any, where: str) -> Rate:
    fields = entry_of({"case": case}, "case", dict, where=where)
    return rate_of(entry_of(fields, _ONE_SEED, dict, where=where), where)
