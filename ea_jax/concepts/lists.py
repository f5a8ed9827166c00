"""The package's word lists: text files beside this one, `#` before a comment, `[...]` a heading."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping, Sequence


@functools.cache
def lines(name: str) -> Sequence[str]:
    """A file's lines without comments and empty ones."""
    text = importlib.resources.files("ea_jax.concepts").joinpath(name).read_text(encoding="utf-8")
    stripped = (line.strip() for line in text.splitlines())
    return tuple(line for line in stripped if line and not line.startswith("#"))


@functools.cache
def sections(name: str) -> Mapping[str, Sequence[str]]:
    """A file's lines by the heading above them."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in lines(name):
        if line.startswith("["):
            heading = line.strip("[]")
        else:
            found.setdefault(heading, []).append(line)
    return found
