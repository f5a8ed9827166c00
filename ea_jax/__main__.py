"""The command `ea-jax`, also `python -m ea_jax`: its subcommands, each a module with a `main`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "erase": ("ea_jax.erase", "erase a concept: an edit, its grid and its results"),
    "sample": ("ea_jax.sample", "paint prompts, with or without a LoRA"),
    "merge": ("ea_jax.merge", "fold a LoRA into a pipeline's folder"),
    "combine": ("ea_jax.combine", "make one LoRA of several"),
    "evaluate": ("ea_jax.evaluate_run", "evaluate a finished run again, under other conditions"),
    "evaluate attacks": ("ea_jax.exam.attacks", "try to get back what an edit erased"),
    "evaluate nudity": ("ea_jax.exam.nudity", "bare skin in pictures of prompts (Table 2)"),
    "evaluate concepts": ("ea_jax.exam.concepts", "erase concepts one by one (Table 3)"),
    "evaluate celebrity": ("ea_jax.exam.celebrity", "who is still recognised (Table 7)"),
    "evaluate celebrity-classifier": (
        "ea_jax.exam.celebrity_classifier",
        "train what recognises them, on a folder of pictures",
    ),
    "evaluate ablation": ("ea_jax.exam.ablation", "the losses' terms, one set a row"),
    "evaluate sweep": ("ea_jax.exam.sweep", "one method under several settings"),
    "evaluate disentangle": ("ea_jax.exam.disentangle", "each erasure under the others' prompts"),
    "evaluate multi": ("ea_jax.exam.multi", "the sum and the mean of N erasures"),
    "evaluate order": ("ea_jax.exam.order", "words in order against shuffled, by the base model"),
    "evaluate t5-neighbours": ("ea_jax.exam.neighbours", "words that T5 puts near a word"),
    "evaluate quality": ("ea_jax.exam.quality", "pictures of everything else, beside the base's"),
    "evaluate attention": ("ea_jax.exam.attention", "where pictures look for a word"),
    "evaluate compare": ("ea_jax.exam.compare", "several edits, the same prompts and seeds"),
    "evaluate judge": ("ea_jax.exam.judge", "how often flux-tiny's judge is right"),
    "evaluate report": ("ea_jax.exam.report", "one HTML page of runs, attacks and tasks"),
    "table": ("ea_jax.table", "one table of many runs"),
    "costs aot": ("ea_jax.costs.aot", "memory and operations on chips that are not here"),
    "costs breakdown": ("ea_jax.costs.breakdown", "what each part of a pair of steps costs here"),
    "costs scaling": ("ea_jax.costs.scaling", "how a step's cost grows with size and devices"),
}
# Earlier names, which go on working.
ALIASES = {"measure": "evaluate"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a subcommand with the arguments behind its name."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # The first word of `costs aot` is none by itself.
    groups = {name.split()[0] for name in COMMANDS}
    asked = given[1:] if given and given[0] in groups - {*COMMANDS} else given
    if not given or (asked and asked[0] in ("-h", "--help", "help")):
        sys.stdout.write(usage())
        return
    for words in (2, 1):
        name = " ".join(given[:words])
        if (known := ALIASES.get(name, name)) in COMMANDS:
            importlib.import_module(COMMANDS[known][0]).main(given[words:])
            return
    said = " ".join(given[: 2 if given[0] in groups else 1])
    near = difflib.get_close_matches(said, COMMANDS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SystemExit(f"error: {said!r} is no command of ea-jax{hint}\n\n{usage()}")


def usage() -> str:
    """All commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        ["usage: ea-jax COMMAND ...    (ea-jax COMMAND --help says more)", "", *lines, ""]
    )


if __name__ == "__main__":
    main()
