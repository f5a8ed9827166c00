"""The small files of a finished run, spoiled at random: one line about the file, or a sound result.

A byte changed, the file cut or emptied, a list or null in the place of any value.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from configs import nudity
from ea_jax import settings
from ea_jax.runtime import run_folder
from ea_jax.runtime.metrics import MetricsLog

CONFIG = json.loads(json.dumps(nudity.get_config().to_dict()))
LINES = "".join(f'{{"step": {step}, "lower/esd": 0.{step}}}\n' for step in range(1, 6))
SEEDS = range(150)


def spoiled(whole: bytes, seed: int) -> bytes:
    """One of the ways in which a file is spoiled, drawn by a seed."""
    chance = random.Random(seed)
    at = chance.randrange(len(whole))
    ways = (
        lambda: whole[:at] + bytes([chance.randrange(256)]) + whole[at + 1 :],
        lambda: whole[:at],
        lambda: whole[:at] + whole[at + chance.randrange(1, 9) :],
        lambda: b"",
        lambda: chance.choice([b"[]", b"null", b"1", b'"text"', b"[" * 9999]),
    )
    return chance.choice(ways)()


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all values in nested objects."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from places(inner, (*path, key))


def replaced(path: tuple, value: Any) -> bytes:
    """The config with another value at a path; without it where the value is `...`."""
    config = json.loads(json.dumps(CONFIG))
    *above, last = path
    section = config
    for key in above:
        section = section[key]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    return json.dumps(config).encode()


def told(action: Callable[[], Any]) -> str:
    """The message of a ValueError; empty if there was none. No other error is caught."""
    try:
        action()
    except ValueError as error:
        return str(error)
    return ""


def read_again(folder: Path) -> None:
    """What a resumed run and a measurement do with config.json."""
    resumed = told(lambda: run_folder.check(folder, CONFIG, may_differ=("log",)))
    assert not resumed or str(folder) in resumed
    read = run_folder.read_config
    measured = told(lambda: settings.from_config(read(folder, sections=settings.SECTIONS)))
    assert "\n" not in resumed + measured


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run_folder.claim(tmp_path, CONFIG)
    return tmp_path


def test_a_spoiled_config_is_one_line_or_a_sound_config(folder: Path) -> None:
    path = folder / run_folder.CONFIG
    whole = path.read_bytes()
    for seed in SEEDS:
        path.write_bytes(spoiled(whole, seed))
        read_again(folder)


def test_a_config_of_other_values_is_one_line_or_a_sound_config(folder: Path) -> None:
    chance = random.Random(0)
    for place in places(CONFIG):
        values = [None, [], {}, "", "text", -1, True, 1e999, [None], ...]
        for value in chance.sample(values, 4):
            (folder / run_folder.CONFIG).write_bytes(replaced(place, value))
            read_again(folder)


@pytest.mark.parametrize("section", ["model", "log"])
def test_a_section_that_is_none_names_file_and_key(folder: Path, section: str) -> None:
    (folder / run_folder.CONFIG).write_bytes(replaced((section,), None))
    with pytest.raises(
        ValueError, match=rf"config\.json: '{section}' is null, not an object; give"
    ):
        run_folder.read_config(folder, sections=settings.SECTIONS)


def test_a_spoiled_log_stops_no_run_and_keeps_the_lines_before(folder: Path) -> None:
    path = folder / "metrics.jsonl"
    for seed in SEEDS:
        path.write_bytes(spoiled(LINES.encode(), seed))
        with MetricsLog(folder, start=4) as log:
            log.scalars(5, {"lower/esd": 1.0})
        *kept, last = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert last == {"step": 5, "lower/esd": 1.0}
        assert all(line["step"] <= 4 for line in kept)
