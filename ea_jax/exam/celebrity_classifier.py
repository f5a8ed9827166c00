"""Trains the classifier of faces that `evaluate celebrity` reads pictures with.

    ea-jax evaluate celebrity-classifier --pictures FOLDER --weights google/mobilenet_v2_1.0_224 \\
        --out classifiers/table-7

The folder has a subfolder of pictures a name. EraseAnything (ICML 2025), appendix F.1.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from convert.disk import require_writable
from ea_jax.arguments import Parser, number, text
from ea_jax.detectors import train_celebrity
from ea_jax.exam import portraits
from ea_jax.runtime.program import one_line_errors, start_program


def train(given: argparse.Namespace) -> str:
    """Trains a classifier and writes its folder.

    Args:
      given: the command's arguments.
    Returns:
      How well it does on pictures that it was not trained on, in a sentence.
    Raises:
      ValueError: a classifier is there already, or pictures or weights that can't be used.
    """
    out = Path(given.out)
    if (out / portraits.RECORD).exists():
        raise ValueError(f"{out} holds a classifier already; give another --out")
    require_writable(out / portraits.RECORD)
    how, config = portraits.start(given)
    chosen = {name: getattr(given, name) for name in ("epochs", "batch", "learning_rate", "seed")}
    how = dataclasses.replace(how, **{k: v for k, v in chosen.items() if v is not None})
    made, facts = train_celebrity.train(given.pictures, how, base=given.weights, config=config)
    made.save(out, facts)
    return portraits.told(portraits.tested(out), len(made.names)) + "\n"


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate celebrity-classifier", "Trains a classifier of faces by name.")
    parser.add("--pictures", rule=text, required=True, help="folder with a subfolder a name")
    parser.add("--out", rule=text, required=True, help="folder of the classifier")
    portraits.add_start_arguments(parser)
    parser.add("--epochs", rule=number(int, low=1), help="times that every picture is seen")
    parser.add("--batch", rule=number(int, low=1), help="pictures of a step")
    parser.add("--learning_rate", rule=number(low=0, high=1), help="of Adam; 1e-4 from --weights")
    parser.add("--seed", rule=number(int, low=0), help="of the split and the order")
    given = parser.parse_args(arguments)
    start_program()
    with one_line_errors("a smaller --batch or --image_size"):
        sys.stdout.write(train(given))
