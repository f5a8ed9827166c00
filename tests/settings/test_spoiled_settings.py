"""Every value of a config, spoiled one at a time: refused in one line with its key, or usable."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from configs import celebrity, nudity
from ea_jax import settings
from ea_jax.settings.fields import SettingsError

SEED = 22
BAD_TEXTS = ("", " ", "\n", "\0", "a\x1bb", "\ud800", "x" * 100_000)


def spoiled(value: Any, rng: np.random.Generator) -> Iterator[Any]:
    """Values of other types, then of the right type and beside any use."""
    yield from (None, True, {}, {"a": 1}, [], b"x", object(), 1 + 2j, {1, 2}, [[1]], "?", 1.5, 7)
    yield from (math.nan, math.inf, -math.inf, 1e300, 1e-300, -1e-300, 10**5000, -(10**400))
    yield from (*BAD_TEXTS, np.float32("nan"), np.zeros(2), np.int32(3))
    if isinstance(value, int | float):
        for exponent in rng.uniform(-60, 60, 4):
            yield type(value)(10.0**exponent)
        yield from (-value - 1, -1, 0, 2**31, 2**63)
    if isinstance(value, str):
        at = int(rng.integers(len(value)))
        yield from (value[:at] + "\x07" + value[at:], value[:at] + "\udfff", f"{value} " * 300)
    if isinstance(value, tuple) and value:
        at = int(rng.integers(len(value)))
        rest = value[:at] + value[at + 1 :]
        yield from ((*value, value[at]), value[at])
        for item in (*BAD_TEXTS, None, math.nan, -1, 10**400, True, (), "?"):
            yield (*rest[:at], item, *rest[at:])


def leaves() -> list[tuple[str, str]]:
    config = nudity.get_config().to_dict()
    return [(section, key) for section in settings.SECTIONS for key in config[section]]


def is_usable(value: Any) -> bool:
    """A number that float32 or int32 holds, text that is text, or a list of such."""
    if isinstance(value, tuple):
        return all(is_usable(item) and item is not None for item in value)
    if isinstance(value, str):
        return bool(value.strip()) and value.replace("\n", " ").isprintable()
    if isinstance(value, int) and not isinstance(value, bool):
        return -(2**31) <= value < 2**31
    if isinstance(value, float):
        return bool(np.isfinite(np.float32(value))) and (value == 0) == (np.float32(value) == 0)
    return value is None


@pytest.mark.parametrize(
    "config",
    [nudity.get_config("tiny"), celebrity.get_config("flux-dev+release")],
    ids=["robust", "release"],
)
def test_a_spoiled_value_is_refused_by_its_key_or_usable(config: Any) -> None:
    rng = np.random.default_rng(SEED)
    plain = config.to_dict()
    refused = 0
    for section, key in leaves():
        for value in spoiled(plain[section][key], rng):
            try:
                made = settings.from_config(plain | {section: plain[section] | {key: value}})
            except SettingsError as error:
                said = str(error)
                assert f"{section}.{key}" in said, said
                assert said.isprintable(), said
                assert len(said) < 400, said
                refused += 1
            else:
                taken = getattr(getattr(made, section), key)
                assert is_usable(taken), (section, key, taken)
    assert refused > 2000


def test_a_spoiled_section_or_preset_is_refused_by_its_name() -> None:
    rng = np.random.default_rng(SEED)
    plain = nudity.get_config().to_dict()
    for name in settings.SECTIONS:
        for value in spoiled(1, rng):
            with pytest.raises(SettingsError, match=rf"^{name}\b") as caught:
                settings.from_config(plain | {name: value})
            assert str(caught.value).isprintable()
