"""Arrays' names say their dimensions, by the letters of one key."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from places import ROOT

import ea_jax

KEY = re.findall(r"^\| ([A-Za-z, ]+) \|", ea_jax.__doc__ or "", re.MULTILINE)[1:]
LETTERS = {letter for row in KEY if row != "HWC" for letter in row.split(", ")} | {"e"}
# No arrays by dimension: an adapter's matrices, a kernel's transpose, constants.
NAMES = re.compile(r"^(lora_[AB]|kernel_T|[A-Z0-9]+(_[A-Z0-9]+)*)$")


def suffix(name: str) -> str | None:
    """The dimensions at the end of an array's name; None where there are none."""
    found = re.search(r"[a-z0-9]_([A-Z][A-Za-z0-9]*)$", name)
    return None if found is None or NAMES.match(name.lstrip("_")) else found[1]


def undefined(name: str) -> set[str]:
    """What the key doesn't have, of an array's dimensions."""
    letters = set((suffix(name) or "").replace("HWC", ""))
    return {letter for letter in letters if not letter.isdigit()} - LETTERS


def names() -> Iterator[tuple[str, str]]:
    """Every name that the code gives, and where."""
    for folder in ("ea_jax", "convert", "configs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                for field in ("id", "attr", "arg"):
                    name = getattr(node, field, None)
                    if isinstance(name, str):
                        yield name, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def test_the_key_has_each_letter_once() -> None:
    letters = [letter for row in KEY if row != "HWC" for letter in row.split(", ")]
    assert len(letters) == len(set(letters))
    assert {"B", "S", "T", "Q", "N", "H", "E", "D", "R", "L"} <= set(letters)


def test_every_dimension_of_a_name_is_in_the_key() -> None:
    wrong = {f"{where}: {name}" for name, where in names() if undefined(name)}
    assert not wrong, sorted(wrong)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("x_BSC", set()),
        ("images_BHWC", set()),
        ("x_BXC", {"X"}),
        ("x_BJ", {"J"}),
        ("lora_A", set()),
    ],
)
def test_a_letter_that_the_key_lacks_is_found(name: str, found: set[str]) -> None:
    assert undefined(name) == found
