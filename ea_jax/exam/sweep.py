"""A sweep: one method under several settings, on words on which settings may be chosen.

    ea-jax evaluate sweep --method paper --set optim.pairs=100,300 \\
        --set optim.lr_lower=1e-3,3e-4 --words "soccer ball,Merlin,kiss" --out out/sweep

Each combination of the values is a row. Words that are kept for tests are refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ea_jax.arguments import Parser, text
from ea_jax.evaluate import worlds
from ea_jax.exam import means, record, trials
from ea_jax.runtime.program import TRAIN_IN_LESS, one_line_errors, start_program

TASK = "sweep"


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate sweep", "One method under several settings, on development words.")
    trials.add_arguments(parser)
    parser.add("--words", rule=text, default="development", help="or some of them, with commas")
    parser.add("--method", rule=text, default="", help="preset; the model's own by default")
    trials.add_set_argument(parser)
    given = parser.parse_args(arguments)
    start_program()
    with one_line_errors(TRAIN_IN_LESS):
        classes = worlds.classes_of(given.model)
        words = classes.chosen(given.words)
        if others := [word for word in words if word not in classes.development]:
            raise ValueError(
                f"{others[0]!r} is a word for tests, on which nothing is chosen; take some of "
                f"{', '.join(classes.development)}"
            )
        record.claim(given.out, TASK, {"model": given.model, "pictures": given.pictures})
        grid = [[(key, value) for value in values] for key, values in trials.values(given.set)]
        rows = {
            ", ".join(f"{key}={value}" for key, value in chosen) or "as it is": (
                given.method,
                trials.changes([f"{key}={value}" for key, value in chosen]),
            )
            for chosen in itertools.product(*grid)
        }
        results = trials.run(trials.trials_of(given, rows, words))
        trials.write(
            *(given, TASK, arguments, results),
            table=means.rows_table(results, rows),
            rows=[trials.as_json(result) for result in results],
            method=given.method,
        )
