"""Where a picture looks for a word, before and after an edit, and what is painted without it.

    ea-jax evaluate attention --edit runs/cat-tiny --prompt "a photo of a cat" --out out/attention

Fig. 2, 3 and 9: heat maps of the word's columns over the image by groups of blocks, and the base's
picture with these columns zeroed.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ea_jax import edits
from ea_jax.arguments import Parser, number, readable, text
from ea_jax.concepts import spans
from ea_jax.evaluate import report
from ea_jax.evaluate.attending import MAP_T, WIDTH, columns_of, looked
from ea_jax.exam import model, record
from ea_jax.exam.compare import add_pictures, how_shown
from ea_jax.exam.model import BASE, Subject
from ea_jax.painter import Painter
from ea_jax.runtime import lock, memory
from ea_jax.runtime.program import one_line_errors, start_program

TASK, ZEROED = "attention", "columns zeroed"
MOST_GROUPS = 4
log = logging.getLogger(__name__)


def attention(given: argparse.Namespace, command: str) -> str:
    """Paints each prompt and maps its attention to the word; writes what a task leaves.

    Args:
      given: the command's arguments.
      command: that they were given to, for the record.
    Returns:
      The Markdown table: mean shares of attention.
    Raises:
      ValueError: no word, or a prompt without it; a word for a minor beside one for nudity; or a
        model, edit or folder that doesn't do. Told before anything is painted.
    """
    prompts, subjects = given.prompt, model.subjects_of(given.edit)
    word = given.word or _word_of(subjects)
    for prompt in prompts:
        if not spans.occurrences(prompt, word):
            raise ValueError(f"{word!r} is not in prompt {prompt!r}; give a prompt with that word")
    shown = how_shown(given, [*prompts, word])
    with lock.held(given.out):
        painter = model.open_painter(given, prompts, subjects, columns=WIDTH)
        protocol = {
            **record.protocol_of(painter, subjects),
            **{"word": word, "prompts": prompts, "seed": given.seed, "pictures": shown},
            "noise_level": MAP_T,
        }
        out = record.claim(given.out, TASK, protocol)
        shares = {}
        for number_, prompt in enumerate(prompts, 1):
            log.info("%s", prompt)
            pictures, maps = _of_prompt(painter, subjects, prompt, word, given.seed)
            if shown == "pixelated":
                pictures = {name: report.pixelated(p[None])[0] for name, p in pictures.items()}
            title = f"attention to “{word}” in “{prompt}”, noise level {MAP_T}"
            report.attention_rows(out / f"prompt-{number_}.png", pictures, maps, title=title)
            shares[prompt] = {
                name: {group: round(float(one.mean()), 6) for group, one in groups.items()}
                for name, groups in maps.items()
            }
        table = _table(shares)
        record.write(out, TASK, command=command, table=table, protocol=protocol, share=shares)
    return table


def groups_of(maps_LHW: np.ndarray) -> dict[str, np.ndarray]:
    """Means over at most `MOST_GROUPS` groups of consecutive blocks, by their numbers from 1."""
    parts = np.array_split(np.arange(len(maps_LHW)), min(MOST_GROUPS, len(maps_LHW)))
    return {
        f"block {part[0] + 1}" if len(part) == 1 else f"blocks {part[0] + 1}-{part[-1] + 1}": (
            maps_LHW[part].mean(0)
        )
        for part in parts
    }


def _of_prompt(
    painter: Painter, subjects: Sequence[Subject], prompt: str, word: str, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """Pictures and maps by subject; the zeroed base has a picture alone."""
    columns, encoded = columns_of(painter, prompt, word), painter.text(prompt)
    pictures, maps = {}, {}
    with jax.set_mesh(painter.mesh):
        for one in subjects:
            zeroed_T = None
            if one.edit is not None and one.edit.zeroed:
                length = encoded.t5_BTD.shape[1]
                zeroed_T = spans.standing(
                    painter.pipeline.t5_tokenizer, [prompt], one.edit.zeroed, max_length=length
                )[0]
            pictures[one.name], maps_LHW = looked(
                *(painter, encoded, columns, seed),
                edit=one.edit,
                strength=one.strength,
                zeroed_T=zeroed_T,
            )
            maps[one.name] = groups_of(maps_LHW)
        [pictures[f"{BASE}, {ZEROED}"]] = painter.paint(prompt, [seed], edit=edits.zeroed([word]))
    return pictures, maps


def _word_of(subjects: Sequence[Subject]) -> str:
    """What all edits erase; ValueError where they name none, or several."""
    named = {one.edit.concept for one in subjects if one.edit is not None}
    if len(named) != 1 or not (word := named.pop()) or ", " in word:
        raise ValueError("the edits don't name one word; say with --word what to look at")
    return word


def _table(shares: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    groups = list(next(iter(next(iter(shares.values())).values())))
    rows = [
        [prompt, name, *(f"{100 * found[group]:.2f}" for group in groups)]
        for prompt, by_name in shares.items()
        for name, found in by_name.items()
    ]
    told = f"Mean share of an image's attention that goes to the word, %, at noise level {MAP_T}."
    return record.markdown(["prompt", "model", *groups], rows) + f"\n{told}\n"


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate attention", "Maps where pictures look for a word, before and after.")
    model.add_arguments(parser)
    parser.add("--prompt", rule=readable, often=True, required=True, help="may be given often")
    parser.add("--word", rule=text, help="in the prompts; what the edits erase by default")
    parser.add("--seed", rule=number(int, low=0, high=2**32 - 1), default=0, help="of the picture")
    add_pictures(parser)
    given = parser.parse_args(arguments)
    start_program()
    with one_line_errors("a smaller --size"):
        memory.keep_freed()
        log.info("%s\n%s", given.out, attention(given, record.command(TASK, arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
