"""Arguments of the commands, checked as they are read; a wrong one ends in `error: ...` and code 1.

parser = Parser("sample", "Paints prompts.")
parser.add("--strength", rule=number(), help="of the LoRA; its recommended one by default")
given = parser.parse_args(arguments)
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

# From an argument's text to its value; its ValueError goes on behind the argument's name.
Rule = Callable[[str], Any]
_LARGEST = float(np.finfo(np.float32).max)
_GIVEN = "_given"  # texts of the arguments so far, while a line is parsed


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line: the argument, its value, what is allowed.

    Args:
      command: its name behind `ea-jax`.
      description: what the command does, in a line.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(f"ea-jax {command}", description=description, allow_abbrev=False)
        self._stated: frozenset[str] = frozenset()

    def parse_known_args(self, args=None, namespace=None):
        """As argparse has it: `parse_args` is made of this."""
        found, rest = super().parse_known_args(args, namespace)
        self._stated = frozenset(vars(found).pop(_GIVEN, ()))
        return found, rest

    def add(self, name: str, *, rule: Rule, **options: Any) -> None:
        """Adds an argument whose text is checked.

        Args:
          name: with its dashes.
          rule: from its text to its value.
          options: of `add_argument`; and `often=True` for one that is given several times, and
            becomes a list.
        """
        self.add_argument(name, action=_Checked, rule=rule, **options)

    def require(self, given: argparse.Namespace, name: str, *, needs: str) -> None:
        """Ends the program where an argument is given without the one that it belongs to."""
        if getattr(given, name) is not None and getattr(given, needs) is None:
            self.error(f"--{name} has no effect without --{needs}; give both, or neither")

    def forbid(self, *names: str, beside: str) -> None:
        """Ends the program where one of some arguments is given beside one that leaves them idle.

        Of the line that was parsed last.
        """
        idle = [name for name in names if name in self._stated]
        if idle and beside in self._stated:
            self.error(f"--{idle[0]} has no effect beside --{beside}; leave one of them out")

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"error: {message}\n")


def text(value: str) -> str:
    """A rule: something other than spaces. An unset shell variable names nothing."""
    if not value.strip():
        raise ValueError("is empty; give a value, or leave the argument out")
    return value


def readable(value: str) -> str:
    """A rule: any text, an empty one too, but no bytes that are none."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"is {value!r}, which is not UTF-8") from None
    return value


def number(kind: type = float, *, low: float = -math.inf, high: float = math.inf) -> Rule:
    """A rule: a number from `low` to `high`, neither NaN nor Inf as a float32."""
    noun = "a whole number" if kind is int else "a finite number"
    begin = "" if low == -math.inf else f" from {low:.15g}"
    allowed = noun + (begin and f"{begin} on" if high == math.inf else f"{begin} to {high:.15g}")

    def rule(value: str) -> Any:
        try:
            found = kind(value)
        except ValueError:
            raise ValueError(f"is {value!r}; it has to be {allowed}") from None
        if not low <= found <= high or (kind is float and abs(found) > _LARGEST):
            raise ValueError(f"is {value}; it has to be {allowed}")
        return found

    return rule


def each(one: Rule) -> Rule:
    """A rule: values separated by commas, none of them twice."""

    def rule(value: str) -> list[Any]:
        found = [one(part.strip()) for part in value.split(",")]
        if len(set(found)) < len(found):
            raise ValueError(f"is {value}; each may be there once")
        return found

    return rule


class _Checked(argparse.Action):
    """Checks an argument's text; the argument may be given once, or, collected in a list, often."""

    def __init__(self, *, rule: Rule, often: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._rule, self._often = rule, often

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        given = namespace.__dict__.setdefault(_GIVEN, {})
        if self.dest in given and not self._often:
            raise argparse.ArgumentError(None, f"{option_string} is given twice; give it once")
        # argparse drops a value of two dashes.
        if not isinstance(values, str):
            raise argparse.ArgumentError(None, f"{option_string} is '--', which is no value")
        try:
            value = self._rule(values)
        except ValueError as error:
            raise argparse.ArgumentError(None, f"{option_string} {error}") from None
        given.setdefault(self.dest, []).append(value)
        setattr(namespace, self.dest, given[self.dest] if self._often else value)
