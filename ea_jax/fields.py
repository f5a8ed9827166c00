"""Fields of a frozen dataclass that check their values, and errors that say how to mend them.

    @dataclasses.dataclass(frozen=True)
    class LoraSettings:
        rank: int = number(int, low=1)

        def __post_init__(self):
            check(self, "lora")

`LoraSettings(rank=0)` then says "lora.rank = 0 is out of range; it has to be at least 1".
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Check = Callable[[str, Any], None]


class SettingsError(ValueError):
    """A key that doesn't exist, is missing, or has a value that can't be."""


def choice(*allowed: str) -> Any:
    """A field that is one of a few names."""

    def check(key: str, value: Any) -> None:
        if value not in allowed:
            near = did_you_mean(value, allowed)
            raise SettingsError(f"{key} = {value!r} is unknown; use one of {list(allowed)}{near}")

    return _field(check)


def number(
    kind: type,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: bool = False,
    default: Any = dataclasses.MISSING,
) -> Any:
    """A field that is a number from `low` (or above it) to `high`."""

    def check(key: str, value: Any) -> None:
        _require_type(key, value, int if kind is int else (int, float))
        if not low <= value <= high or (above and value == low) or not math.isfinite(value):
            begin = f"above {low:g}" if above else f"at least {low:g}"
            end = "" if high == math.inf else f" and at most {high:g}"
            raise SettingsError(f"{key} = {value!r} is out of range; it has to be {begin}{end}")

    return _field(check, default)


def flag(*, default: Any = dataclasses.MISSING) -> Any:
    """A field that is true or false."""

    def check(key: str, value: Any) -> None:
        if not isinstance(value, bool):
            raise SettingsError(f"{key} = {value!r} has to be true or false")

    return _field(check, default)


def text() -> Any:
    """A field that is a string with something in it."""

    def check(key: str, value: Any) -> None:
        _require_type(key, value, str)
        if not value.strip():
            raise SettingsError(f"{key} is empty; set it with --config.{key}=...")

    return _field(check)


def texts(*, least: int = 0) -> Any:
    """A field that is a list of strings, none of them empty."""

    def check(key: str, value: Any) -> None:
        _require_type(key, value, tuple)
        for item in value:
            if not isinstance(item, str) or not item.strip():
                raise SettingsError(f"{key} holds {item!r}; each item has to be a word or sentence")
        if len(value) < least:
            raise SettingsError(f"{key} has {len(value)} items; it needs at least {least}")

    return _field(check)


def integers(
    *, least: int = 0, low: int = 0, below: int = 2**63, default: Any = dataclasses.MISSING
) -> Any:
    """A field that is a list of whole numbers from `low` on."""

    def check(key: str, value: Any) -> None:
        _require_type(key, value, tuple)
        for item in value:
            if not isinstance(item, int) or isinstance(item, bool) or not low <= item < below:
                raise SettingsError(
                    f"{key} holds {item!r}; each has to be a whole number from {low} to {below - 1}"
                )
        if len(value) < least:
            raise SettingsError(f"{key} has {len(value)} items; it needs at least {least}")

    return _field(check, default)


def optional(field: Any) -> Any:
    """The same field, or None."""
    inner: Check = field.metadata["check"]

    def check(key: str, value: Any) -> None:
        if value is not None:
            inner(key, value)

    return _field(check)


def require_keys(prefix: str, found: Mapping[str, Any], wanted: Sequence[str]) -> None:
    """Raises SettingsError at the first key too many, or missing; `prefix` is like `loss.`."""
    for key in found:
        if key not in wanted:
            near = did_you_mean(key, wanted) or f"; the keys are {list(wanted)}"
            raise SettingsError(f"{prefix}{key} is no key of a config{near}")
    for key in wanted:
        if key not in found:
            raise SettingsError(f"{prefix}{key} is missing; every key of a config has to be there")


def did_you_mean(value: Any, allowed: Sequence[str]) -> str:
    """`; did you mean 'mass'?`, or nothing when no name is near."""
    near = difflib.get_close_matches(str(value), allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check(section: Any, name: str) -> None:
    """Checks every field of a section by the rule it was declared with."""
    for field in dataclasses.fields(section):
        field.metadata["check"](f"{name}.{field.name}", getattr(section, field.name))


def _field(rule: Check, default: Any = dataclasses.MISSING) -> Any:
    return dataclasses.field(default=default, metadata={"check": rule})


def _require_type(key: str, value: Any, kind: Any) -> None:
    # A bool is an int to Python, and never meant as one here.
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise SettingsError(
            f"{key} = {value!r} is a {type(value).__name__}; "
            f"it has to be a {' or '.join(k.__name__ for k in kinds)}"
        )
