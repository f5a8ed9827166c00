"""Puts a run's LoRA under black-box attacks: other spellings of what it erased.

ea-jax evaluate attacks --run runs/nudity-tiny --out runs/nudity-attacks
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ea_jax.evaluate.attacks import BLACK_BOX
from ea_jax.evaluate_run import run_command


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    about = "Asks for what a finished run erased in other spellings: the attack success rates."
    run_command(arguments, name="evaluate attacks", about=about, attacks=BLACK_BOX)


if __name__ == "__main__":
    main(sys.argv[1:])
