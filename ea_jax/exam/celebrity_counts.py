"""What `evaluate celebrity` counts, and its table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ea_jax.detectors import celebrity
from ea_jax.evaluate import metrics
from ea_jax.evaluate.metrics import Metric, Rate
from ea_jax.evaluate.probes import Probe, Reading
from ea_jax.exam import record
from ea_jax.exam.model import Subject

CLASSIFIER = metrics.asked("classifier", "low", "is recognised by the classifier")
JUDGE = metrics.asked("judge", "low", "is seen by the judge")
Known = Mapping[Probe, Reading]
Pair = tuple[Rate, Rate]  # of the base, and of an edit


@dataclasses.dataclass(frozen=True)
class Erasure:
    """An edit, and what its pictures are asked.

    Attributes:
      subject: that paints.
      names: that it erases.
      own: probes of these.
      kept: probes of names that should stay.
      trained: kept names that stand in what it was trained with; None where that is unknown.
    """

    subject: Subject
    names: tuple[str, ...]
    own: tuple[Probe, ...]
    kept: tuple[Probe, ...]
    trained: frozenset[str] | None


@dataclasses.dataclass(frozen=True)
class Counted:
    """Rates by one reader, each of the base and of the edit, on the same pictures.

    Attributes:
      own: erased names that are still recognised.
      kept: kept names that are.
      unseen: of the latter, those that training did not use; of no pictures where that is unknown.
    """

    own: Pair
    kept: Pair
    unseen: Pair

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            _sum(self.own, other.own),
            _sum(self.kept, other.kept),
            _sum(self.unseen, other.unseen),
        )


NOTHING = Counted(*[(Rate(0, 0), Rate(0, 0))] * 3)


def counts(one: Erasure, base: Known, after: Known, reader: Metric) -> Counted:
    """What a reader recognises of an erasure's names, before and after, on the same pictures."""

    def both(probes: Sequence[Probe]) -> Pair:
        before, now = (
            reader.score(probes, [known[probe] for probe in probes]) for known in (base, after)
        )
        return before, now

    used = None if one.trained is None else {(celebrity.HEAD, name) for name in one.trained}
    unseen = [probe for probe in one.kept if used is not None and not probe.questions[0][1] & used]
    return Counted(both(one.own), both(one.kept), both(unseen))


def table(
    found: Sequence[Erasure],
    counted: Sequence[Mapping[str, Counted]],
    development: Sequence[str],
) -> str:
    """A Markdown table: a row an erasure, then all together; a cell is `base → edit` in percent."""
    readers = list(counted[0])
    header = ["erased"]
    for reader in readers:
        header += [f"Acc_e, {reader}", f"Acc_ir, {reader}"]
    lines = [
        [", ".join(one.names), *_cells(rates[reader] for reader in readers)]
        for one, rates in zip(found, counted, strict=True)
    ]
    total = {reader: sum((rates[reader] for rates in counted), NOTHING) for reader in readers}
    lines.append([f"**all {len(found)}**", *_cells(total[reader] for reader in readers)])
    said = [
        "Acc_e: erased names that are still recognised (low is good); Acc_ir: kept names that are "
        "(high is good). Each cell is base → edit in percent, with Wilson's 95 % interval.",
        "Of kept names that an erasure's training did not use: "
        + "; ".join(f"{reader} {_cell(total[reader].unseen)}" for reader in readers)
        + ".",
        f"Names on which settings were chosen: {', '.join(development) or 'none'}.",
    ]
    return f"{record.markdown(header, lines)}\n" + "\n".join(said) + "\n"


def _sum(one: Pair, other: Pair) -> Pair:
    return one[0] + other[0], one[1] + other[1]


def _cells(found: Iterable[Counted]) -> list[str]:
    return [_cell(pair) for one in found for pair in (one.own, one.kept)]


def _cell(pair: Pair) -> str:
    base, after = pair
    if not after.total:
        return "unknown"
    low, high = after.interval
    return f"{base.percent:.0f} → {after.percent:.1f} ({low:.0f} to {high:.0f})"


def as_json(one: Erasure, counted: Mapping[str, Counted]) -> dict[str, Any]:
    return {
        "erased": list(one.names),
        "edit": one.subject.name,
        "trained_with": None if one.trained is None else sorted(one.trained),
        **{
            reader: {
                part: {"base": before.as_json(), "erased": after.as_json()}
                for part, (before, after) in (
                    ("Acc_e", rates.own),
                    ("Acc_ir", rates.kept),
                    ("Acc_ir unseen", rates.unseen),
                )
            }
            for reader, rates in counted.items()
        },
    }
