"""The paper's Table 4: which terms of the losses do what, on characters, one LoRA each.

    ea-jax evaluate ablation --words "Dracula,Merlin" --seeds 0,1,2 --out out/ablation

Rows are Table 4's six and esd alone, of which the paper's text speaks. All keep the settings of
`--method`; only the weights of terms go. `--set` changes a setting of all rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ea_jax.arguments import Parser, text
from ea_jax.evaluate import worlds
from ea_jax.exam import means, record, trials
from ea_jax.exam.trials import Result, Trial
from ea_jax.runtime.program import TRAIN_IN_LESS, one_line_errors, start_program

TASK = "ablation"
_TERMS = ("esd", "attn", "lora", "rsc")
# Erased and irrelevant pictures still told right, percent; another world, another classifier.
PAPER = {
    "esd": None,
    "esd+attn": (15.3, 82.1),
    "esd+lora": (20.5, 77.9),
    "esd+rsc": (16.1, 85.6),
    "attn+rsc": (18.6, 81.7),
    "attn+lora+rsc": (15.8, 80.2),
    "esd+attn+lora+rsc": (14.9, 88.5),
}


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate ablation", "The losses' terms, one set a row (Table 4).")
    trials.add_arguments(parser)
    parser.add("--words", rule=text, default="Dracula,Merlin", help="separated by commas")
    parser.add("--method", rule=text, default="paper", help="preset that all rows start from")
    trials.add_set_argument(parser)
    given = parser.parse_args(arguments)
    start_program()
    with one_line_errors(TRAIN_IN_LESS):
        worlds.classes_of(given.model)
        record.claim(given.out, TASK, {"model": given.model, "pictures": given.pictures})
        shared = trials.changes(given.set)
        rows = {row: (given.method, {**shared, **weights(row)}) for row in PAPER}
        words = list(dict.fromkeys(word.strip() for word in given.words.split(",")))
        found = trials.trials_of(given, rows, words)
        for trial in found:
            require_weights(trial)
        results = trials.run(found)
        trials.write(
            *(given, TASK, arguments, results),
            table=table(results),
            rows=[trials.as_json(result) for result in results],
            method=given.method,
            set=shared,
        )
        for result in results:
            require_terms(result)


def weights(row: str) -> dict[str, Any]:
    """The settings of a row: a weight of 0 for each term that it lacks, the rest as they are."""
    there = row.split("+")
    return {f"loss.{term}": 0.0 for term in _TERMS if term not in there}


def require_weights(trial: Trial) -> None:
    """Raises ValueError where a term that a row names has a weight of 0 there."""
    loss = trial.config["loss"]
    if off := [term for term in trial.row.split("+") if not loss[term]]:
        raise ValueError(
            f"row {trial.row!r} names {', '.join(off)}, whose weight is 0; give it one with --set, "
            "or another --method"
        )


def require_terms(result: Result) -> None:
    """Raises ValueError where a term of a row was off: L_rsc is, without synonyms."""
    log = result.trial.folder / "metrics.jsonl"
    last = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
    computed = {name.partition("/")[2] for name in last}
    off = [term for term in result.trial.row.split("+") if term not in computed]
    if off:
        raise ValueError(
            f"row {result.trial.row!r} of {result.trial.word!r} ran without {', '.join(off)}; "
            "give words that have synonyms"
        )


def table(results: Sequence[Result]) -> str:
    """A Markdown table, and the paper's numbers beside it."""
    quoted = [
        [row, "not in the table" if numbers is None else f"{numbers[0]} / {numbers[1]}"]
        for row, numbers in PAPER.items()
    ]
    return (
        means.rows_table(results, PAPER)
        + "\nThe paper's own on FLUX.1-dev, erased / irrelevant, by its classifier:\n\n"
        + record.markdown(["", "paper"], quoted)
    )
