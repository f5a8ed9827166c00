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
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Check = Callable[[str, Any], None]
# Programs count and index in int32, and compute in float32.
INT_MAX = 2**31 - 1
FLOAT_MAX = (2 - 2**-23) * 2.0**127
FLOAT_MIN = 2.0**-126

MANY = 10**6  # pictures, rows or steps: no host holds more


class SettingsError(ValueError):
    """A key that doesn't exist, is missing, or has an invalid value."""


def choice(*allowed: str) -> Any:
    """A field that is one of a few names."""

    def check(key: str, value: Any) -> None:
        if not isinstance(value, str) or value not in allowed:
            near = did_you_mean(value, allowed)
            raise SettingsError(
                f"{key} = {shown(value)} is unknown; use one of {list(allowed)}{near}"
            )

    return _field(check)


def number(
    kind: type,
    *,
    low: float = -FLOAT_MAX,
    high: float | None = None,
    above: bool = False,
    below: bool = False,
    default: Any = dataclasses.MISSING,
) -> Any:
    """A field that is a number from `low` (or above it) to `high` (or below it).

    Without a `high`, to what int32 or float32 can hold.
    """
    limit = (INT_MAX if kind is int else FLOAT_MAX) if high is None else high

    def check(key: str, value: Any) -> None:
        _require_type(key, value, int if kind is int else (int, float))
        # What float32 rounds to the limit is at the limit.
        nearest = limit - 2**-24 if below else limit
        if not low <= value <= nearest or (above and value == low):
            begin = f"above {low:g}" if above else f"at least {low:g}"
            stated = f"{limit:.12g}" if kind is int else f"{limit:g}"
            end = f"below {stated} in float32" if below else f"at most {stated}"
            raise SettingsError(
                f"{key} = {shown(value)} is out of range; it has to be {begin} and {end}"
            )
        if isinstance(value, int) and value > INT_MAX:
            raise SettingsError(f"{key} = {value} does not fit int32; write {float(value)!r}")
        if 0 < abs(value) < FLOAT_MIN:
            raise SettingsError(
                f"{key} = {value!r} is 0 in float32; use at least {FLOAT_MIN:.3g}"
                + ("" if above else ", or 0")
            )

    return _field(check, default)


def flag(*, default: Any = dataclasses.MISSING) -> Any:
    """A field that is true or false."""

    def check(key: str, value: Any) -> None:
        if not isinstance(value, bool):
            raise SettingsError(f"{key} = {value!r} has to be true or false")

    return _field(check, default)


def text(*, word: bool = False) -> Any:
    """A field that is a string with something in it; a `word` is more than punctuation."""

    def check(key: str, value: Any) -> None:
        _require_type(key, value, str)
        if not value.strip():
            raise SettingsError(f"{key} is empty; set it with --config.{key}=...")
        if fault := _fault(value, word=word):
            raise SettingsError(f"{key} = {shown(value)} {fault}")

    return _field(check)


def texts(*, least: int = 0, word: bool = False, distinct: bool = False) -> Any:
    """A field that is a list of strings, none of them empty; `word` as in `text`."""

    def check(key: str, value: Any) -> None:
        _require_type(key, value, tuple)
        for item in value:
            if not isinstance(item, str) or not item.strip():
                raise SettingsError(
                    f"{key} holds {shown(item)}; each item has to be a word or sentence"
                )
            if fault := _fault(item, word=word):
                raise SettingsError(f"{key} holds {shown(item)}, which {fault}")
        _require_items(key, value, least=least, distinct=distinct)

    return _field(check)


def integers(
    *,
    least: int = 0,
    low: int = 0,
    below: int = INT_MAX + 1,
    distinct: bool = False,
    default: Any = dataclasses.MISSING,
) -> Any:
    """A field that is a list of whole numbers from `low` on, each once where `distinct`."""

    def check(key: str, value: Any) -> None:
        _require_type(key, value, tuple)
        for item in value:
            if not isinstance(item, int) or isinstance(item, bool) or not low <= item < below:
                raise SettingsError(
                    f"{key} holds {shown(item)}; "
                    f"each has to be a whole number from {low} to {below - 1}"
                )
        _require_items(key, value, least=least, distinct=distinct)

    return _field(check, default)


def optional(field: Any) -> Any:
    """The same field, or None."""
    inner: Check = field.metadata["check"]

    def check(key: str, value: Any) -> None:
        if value is not None:
            inner(key, value)

    return dataclasses.field(metadata={"check": check, "optional": True})


def require_keys(prefix: str, found: Mapping[str, Any], wanted: Sequence[str]) -> None:
    """Raises SettingsError at the first key too many, or missing; `prefix` is like `loss.`."""
    # A ConfigDict is no Mapping.
    if not hasattr(found, "keys"):
        raise SettingsError(
            f"{prefix.rstrip('.') or 'config'} = {shown(found)} is a {type(found).__name__}; "
            f"it has to be a section with the keys {list(wanted)}"
        )
    for key in found:
        if key not in wanted:
            near = did_you_mean(key, wanted) or f"; the keys are {list(wanted)}"
            name = key if isinstance(key, str) and key.isprintable() else shown(key)
            raise SettingsError(f"{prefix}{name} is no key of a config{near}")
    for key in wanted:
        if key not in found:
            raise SettingsError(f"{prefix}{key} is missing; every key of a config has to be there")


def did_you_mean(value: Any, allowed: Sequence[str]) -> str:
    """`; did you mean 'mass'?`, or nothing when no name is near."""
    name = value[:99] if isinstance(value, str) else ""
    near = difflib.get_close_matches(name, allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def shown(value: Any) -> str:
    """A value as an error shows it: in one line, cut where it is long."""
    try:
        said = repr(value[:99] if isinstance(value, str) else value)
    except ValueError:  # Python writes no number of more than 4300 digits
        said = "a number too long to show"
    said = " ".join(said.split())
    return said if len(said) <= 99 else f"{said[:96]}..."


def check(section: Any, name: str) -> None:
    """Checks every field of a section by the rule it was declared with."""
    for field in dataclasses.fields(section):
        field.metadata["check"](f"{name}.{field.name}", getattr(section, field.name))


def _field(rule: Check, default: Any = dataclasses.MISSING) -> Any:
    return dataclasses.field(default=default, metadata={"check": rule})


def _fault(value: str, *, word: bool) -> str:
    """Why a string is no text, or no word; empty if it is."""
    kinds = {unicodedata.category(letter) for letter in {*value} - {*"\t\n\r"}}
    # Control characters, and halves of a character.
    if kinds & {"Cc", "Cs"}:
        return "has a character that is no text; leave it out"
    if word and not any(kind[0] in "LNS" for kind in kinds):
        return "is only punctuation; it has to be a word"
    return ""


def _require_items(key: str, value: Sequence[Any], *, least: int, distinct: bool) -> None:
    if len(value) < least:
        raise SettingsError(f"{key} has {len(value)} items; it needs at least {least}")
    twice = [item for n, item in enumerate(value) if distinct and item in value[:n]]
    if twice:
        raise SettingsError(f"{key} holds {shown(twice[0])} twice; name it once")


def _require_type(key: str, value: Any, kind: Any) -> None:
    # A bool is an int to Python, and never meant as one here.
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise SettingsError(
            f"{key} = {shown(value)} is a {type(value).__name__}; "
            f"it has to be a {' or '.join(k.__name__ for k in kinds)}"
        )
