"""Several edits side by side, same prompts and seeds: Fig. 1, 4 and 14.

    ea-jax evaluate compare --edit runs/cat-tiny --edit half=runs/cat-tiny@0.5 \\
        --prompt "a photo of a cat" --prompt "a photo of a dog" --seed 0,1 --out out/compare

The sheet has a row a prompt; in each, for every seed, the base beside each edit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from ea_jax import painter as painting
from ea_jax.arguments import Parser, each, number, readable
from ea_jax.concepts import minors
from ea_jax.concepts.array_cache import cached
from ea_jax.evaluate import readings, report
from ea_jax.exam import model, record
from ea_jax.exam.model import Subject
from ea_jax.flux import hub
from ea_jax.painter import Painter
from ea_jax.runtime import lock, memory
from ea_jax.runtime.fingerprint import checksum
from ea_jax.runtime.pixels import as_bytes
from ea_jax.runtime.program import one_line_errors, start_program

TASK, SHEET = "compare", "sheet.png"
PICTURES = ("plain", "pixelated")
log = logging.getLogger(__name__)


def compare(given: argparse.Namespace, command: str) -> str:
    """Paints every prompt and seed with the base and each edit; writes what a task leaves.

    Args:
      given: the command's arguments.
      command: that they were given to, for the record.
    Returns:
      The Markdown table: how far each edit's pictures are from the base's.
    Raises:
      ValueError: a prompt given twice, a word for a minor beside one for nudity, or a model, edit
        or folder that doesn't do. Told before anything is painted.
    """
    prompts, seeds = given.prompt, given.seed
    if twice := next((prompt for prompt in prompts if prompts.count(prompt) > 1), None):
        raise ValueError(f"--prompt={twice!r} is given twice; give it once")
    subjects = model.subjects_of(given.edit)
    shown = how_shown(given, [*prompts, *(one.edit.concept or "" for one in subjects if one.edit)])
    with lock.held(given.out):
        painter = model.open_painter(given, prompts, subjects)
        asked = [[prompt, seed] for prompt in prompts for seed in seeds]
        protocol = {
            **record.protocol_of(painter, subjects),
            "prompts": prompts,
            "seeds": seeds,
            "hash": hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16],
            "pictures": shown,
        }
        out = record.claim(given.out, TASK, protocol)
        # A cache holds pictures as they are.
        cache = given.cache if shown == "plain" else None
        painted = {
            one.name: np.stack([_painted(painter, one, prompt, seeds, cache) for prompt in prompts])
            for one in subjects
        }
        distances = _distances(painted, prompts)
        table = _table(distances, prompts)
        record.write(
            out, TASK, command=command, table=table, protocol=protocol, difference=distances
        )
        if shown == "pixelated":
            painted = {
                name: report.pixelated(images.reshape(-1, *images.shape[2:])).reshape(images.shape)
                for name, images in painted.items()
            }
        record.contact_sheet(
            out / SHEET,
            {
                prompt: [images[row, n] for n in range(len(seeds)) for images in painted.values()]
                for row, prompt in enumerate(prompts)
            },
            [f"{name}, seed {seed}" for seed in seeds for name in painted],
        )
    return table


def how_shown(given: argparse.Namespace, texts: Sequence[str]) -> str:
    """Whether pictures are written plain or pixelated; ValueError for a minor beside nudity.

    See `minors.how_shown` for what is done where `--pictures` says nothing.
    """
    minors.require_adults(texts)
    return given.pictures or minors.how_shown(texts, real=given.model != hub.EMBEDDED)


def add_pictures(parser: Parser) -> None:
    """Adds `--pictures`, which `how_shown` reads."""
    parser.add(
        "--pictures",
        rule=readable,
        choices=PICTURES,
        help="as they are written; pixelated by default where a text is about nudity",
    )


def _painted(
    painter: Painter, subject: Subject, prompt: str, seeds: Sequence[int], cache: str | None
) -> np.ndarray:
    """Pictures of a prompt, [seeds, H, W, 3] in [0, 1] in steps of 1 / 255; kept."""

    def paint() -> tuple[np.ndarray]:
        images = painter.paint(prompt, seeds, edit=subject.edit, strength=subject.strength)
        return (as_bytes(images),)

    text = painter.text(prompt)
    what = f"{len(seeds)} pictures of {prompt!r} by {subject.name}"
    log.info("%s", what)
    inputs = {
        **readings.conditions(painter, subject.edit, subject.strength),
        "version": painting.VERSION,
        "text": checksum(text.t5_BTD, text.pooled_BD),
        "asked": [prompt, list(seeds)],
    }
    [bytes_PHWC] = cached(cache, inputs, paint, names=("images",), kind="pictures", what=what)
    return bytes_PHWC.astype(np.float32) / 255


def _distances(
    painted: Mapping[str, np.ndarray], prompts: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Mean absolute difference to the base's pictures by edit and prompt, in percent of white."""
    return {
        name: {
            prompt: round(100 * float(np.abs(images[row] - painted[model.BASE][row]).mean()), 2)
            for row, prompt in enumerate(prompts)
        }
        for name, images in painted.items()
        if name != model.BASE
    }


def _table(distances: Mapping[str, Mapping[str, float]], prompts: Sequence[str]) -> str:
    rows = [
        [prompt, *(f"{found[prompt]:.2f}" for found in distances.values())] for prompt in prompts
    ]
    told = "Mean absolute difference to the base's pictures, same seeds, in percent of white."
    return record.markdown(["prompt", *distances], rows) + f"\n{told}\n"


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate compare", "Paints the same prompts and seeds with several edits.")
    model.add_arguments(parser)
    parser.add("--prompt", rule=readable, often=True, required=True, help="may be given often")
    parser.add(
        "--seed",
        rule=each(number(int, low=0, high=2**32 - 1)),
        default=[0],
        help="one picture a seed: 0,1,2",
    )
    add_pictures(parser)
    given = parser.parse_args(arguments)
    start_program()
    with one_line_errors("a smaller --batch or --size"):
        memory.keep_freed()
        log.info("%s\n%s", given.out, compare(given, record.command(TASK, arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
