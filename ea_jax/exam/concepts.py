"""The paper's Table 3: each concept of Table 6 erased by itself, and what is left of it.

    ea-jax evaluate concepts --out out/concepts --words test
    ea-jax evaluate concepts --out out/concepts --words cat --method robust,paper --seeds 0,1,2

On FLUX.1-dev CLIP tells the concepts apart, each among the ten of its category:

    ea-jax evaluate concepts --model flux-dev --clip openai/clip-vit-large-patch14 \
        --words Cat,Kiss --out out/concepts-dev

Every word gets the same settings. `development` words are those on which settings were chosen, the
`test` words all others.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence

from ea_jax.arguments import Parser, number, text
from ea_jax.evaluate import metrics, worlds
from ea_jax.evaluate.metrics import METRICS, Metric
from ea_jax.evaluate.task import Classes
from ea_jax.exam import clip_concepts, means, record, trials
from ea_jax.exam.trials import Result
from ea_jax.runtime.program import TRAIN_IN_LESS, one_line_errors, start_program

TASK = "concepts"
# What an erasure should reach: percent, or a share of the base in percent.
_WANTED = {
    metrics.CONCEPT.name: ("at most", 5.0),
    metrics.SYNONYMS.name: ("at most", 10.0),
    metrics.OTHERS.name: ("of base", 97.0),
    metrics.NEAREST.name: ("of base", 90.0),
    metrics.REST.name: ("of base", 90.0),
    metrics.VALID.name: ("of base", 97.0),
}


def _median(results: Sequence[Result], name: str) -> float:
    return statistics.median(trials.cost(one.trial)[name] for one in results)


# Of a word's run, the median of all.
_COSTS = {
    "seconds": lambda results: f"{_median(results, 'seconds'):.1f}",
    "KiB": lambda results: f"{_median(results, 'bytes') / 1024:.0f}",
}


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate concepts", "Erases concepts one by one and measures each (Table 3).")
    trials.add_arguments(parser)
    parser.add(
        "--words",
        rule=text,
        default="development",
        help="development, test, all, or words separated by commas",
    )
    parser.add("--method", rule=text, default="", help="presets; the model's own by default")
    parser.add("--clip", rule=text, help="folder or hub id of a CLIP, for models without a judge")
    parser.add(
        "--tensor", rule=number(int, low=1), help="devices that share one transformer, for --clip"
    )
    trials.add_set_argument(parser)
    given = parser.parse_args(arguments)
    parser.require(given, "tensor", needs="clip")
    start_program()
    with one_line_errors(TRAIN_IN_LESS):
        shared = trials.changes(given.set)
        rows = {name or "default": (name, shared) for name in given.method.split(",")}
        if given.clip is None:
            classes, measured, of_word = worlds.classes_of(given.model), trials.run, lambda _: {}
        else:
            classes, of_word = clip_concepts.CLASSES, clip_concepts.settings_of
            measured = functools.partial(clip_concepts.run, given)
        words = classes.chosen(given.words)
        record.claim(given.out, TASK, {"model": given.model, "pictures": given.pictures})
        results = measured(trials.trials_of(given, rows, words, of_word=of_word))
        tables = {row: table([r for r in results if r.trial.row == row], classes) for row in rows}
        if len(rows) > 1:
            tables = {"all": means.rows_table(results, rows, _COSTS), **tables}
        shown = "\n".join(f"### {row}\n\n{shown}" for row, shown in tables.items())
        trials.write(
            *(given, TASK, arguments, results),
            table=shown,
            rows=[
                trials.as_json(
                    one, category=classes.category(one.trial.word), **trials.cost(one.trial)
                )
                for one in results
            ],
            set=shared,
            clip=given.clip,
        )


def table(results: Sequence[Result], classes: Classes) -> str:
    """A Markdown table of one method: a row a word, and the mean of each category.

    A cell is `base → erased` in percent, of all seeds together; a word's worst seed stands behind
    where there are several.
    """
    header = ["", "words", *(metric.name for metric in METRICS)]
    rows: list[list[str]] = []
    groups: dict[str, dict[str, list[Result]]] = {}
    every = means.by_word(results)
    for word, runs in every.items():
        groups.setdefault(classes.category(word), {})[word] = runs
    for category, group in groups.items():
        for word, runs in group.items():
            rows.append([category, word, *(_cell(metric, runs) for metric in METRICS)])
        if len(group) > 1:
            rows.append([f"**{category}**", f"mean of {len(group)}", *means.mean_cells(group)])
    if len(groups) > 1:
        rows.append(["**all**", f"mean of {len(every)}", *means.mean_cells(every)])
    missed = [line for word, runs in every.items() for line in _missed(word, runs)]
    said = "\n".join(f"- {line}" for line in missed) or "- nothing"
    chosen = ", ".join(word for word in every if word in classes.development) or "none"
    return (
        f"{record.markdown(header, rows)}\n"
        f"Words on which settings were chosen: {chosen}. Missed of what is wanted:\n\n{said}\n"
    )


def _cell(metric: Metric, runs: Sequence[Result]) -> str:
    base, erased = means.both(metric, runs)
    if not erased.total:
        return ""
    low, high = erased.interval
    worst = ""
    if len(runs) > 1:
        worst = f", worst {metric.worst([run.erased[metric.name].percent for run in runs]):.0f}"
    return f"{base.percent:.0f} → {erased.percent:.1f} ({low:.0f} to {high:.0f}{worst})"


def _missed(word: str, runs: Sequence[Result]) -> list[str]:
    """What a word's erasure doesn't reach of what is wanted."""
    lines = []
    for metric in METRICS:
        base, erased = means.both(metric, runs)
        how, bar = _WANTED[metric.name]
        if not erased.total or not base.hits:
            continue
        found = erased.percent if how == "at most" else 100 * erased.percent / base.percent
        if (found > bar) if how == "at most" else (found < bar):
            unit = "" if how == "at most" else " % of base"
            wanted = f"at most {bar:.0f}" if how == "at most" else f"at least {bar:.0f}"
            lines.append(f"{word}: {metric.name} {found:.1f}{unit}, wanted {wanted}")
    return lines
