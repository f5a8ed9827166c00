"""A run folder is resumed by the same configuration and by no other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ea_jax.runtime.run_folder import (
    ForeignRunError,
    check,
    claim,
    read_config,
    require_kinds,
    write_json,
)

CONFIG = {"lora": {"rank": 4, "scope": "dual_qk"}, "words": ("nude", "bare"), "log": {"every": 10}}


def test_a_new_folder_is_taken_and_the_same_config_finds_it_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    assert not claim(folder, CONFIG)
    assert claim(folder, CONFIG)
    assert json.loads((folder / "config.json").read_text())["lora"] == CONFIG["lora"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lora": {"rank": 8, "scope": "dual_qk"}}, "lora.rank = 4, not 8"),
        ({"lora": {"rank": 4}}, "lora.scope = dual_qk, not absent"),
        ({"words": ("nude",)}, r"words = \['nude', 'bare'\], not \['nude'\]"),
        ({"base": "sha"}, "base = absent, not sha"),
    ],
)
def test_another_config_is_told_the_first_key_that_differs(
    tmp_path: Path, change: dict, said: str
) -> None:
    claim(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(ForeignRunError, match=said):
        claim(tmp_path, CONFIG | change)
    assert (tmp_path / "config.json").read_text() == before


def test_a_key_that_changes_no_result_may_differ(tmp_path: Path) -> None:
    claim(tmp_path, CONFIG)
    assert claim(tmp_path, CONFIG | {"log": {"every": 1}}, may_differ=("log",))
    assert claim(tmp_path, CONFIG | {"log": {"every": 1}}, may_differ=("log.every",))
    with pytest.raises(ForeignRunError, match=r"log\.every = 10, not 1"):
        claim(tmp_path, CONFIG | {"log": {"every": 1}}, may_differ=("log.eve", "lo"))


def test_keys_that_are_new_since_a_folder_was_taken_are_written_down(tmp_path: Path) -> None:
    claim(tmp_path, {"optim": {"batch": 2}, "ca": {"gone": 1}})
    claim(tmp_path, {"optim": {"batch": 2}, "ca": {"new": 1}}, may_differ=("ca",))
    assert read_config(tmp_path) == {"optim": {"batch": 2}, "ca": {"new": 1}}


def test_a_json_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_json(tmp_path / "a.json", {})
    assert os.stat(tmp_path / "a.json").st_mode == os.stat(tmp_path / "plain").st_mode


def test_a_folder_that_cannot_be_made_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"run/config\.json was not written: .*file is a file, not"):
        claim(tmp_path / "file" / "run", CONFIG)


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "checkpoints"])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ForeignRunError, match=f"no config.json but holds {name}"):
        claim(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_a_kill_left_of_the_first_claim_is_no_other_run(tmp_path: Path) -> None:
    (tmp_path / ".config.json-x1.json").write_text("{")
    assert not claim(tmp_path, CONFIG)


def test_a_check_takes_nothing(tmp_path: Path) -> None:
    assert not check(tmp_path / "run", CONFIG)
    assert not list(tmp_path.iterdir())
    claim(tmp_path, CONFIG)
    assert check(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ('{"lora"', "is not JSON"),
        ("[1]", r"holds a list \(\[1\]\), not an object"),
        ("null", "holds null, not an object"),
    ],
)
def test_a_damaged_config_names_its_file(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    for read in (read_config, lambda folder: claim(folder, CONFIG)):
        with pytest.raises(ValueError, match=f"config.json {said}.*; give the folder of a run"):
            read(tmp_path)
    assert (tmp_path / "config.json").read_text() == text


def test_a_folder_without_a_config_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json does not exist; give the folder of a run"):
        read_config(tmp_path)


def test_a_file_in_the_place_of_a_folder_is_seen_before_the_run(tmp_path: Path) -> None:
    names = {"files": ["metrics.jsonl"], "folders": ["checkpoints", "grids"]}
    require_kinds(tmp_path / "absent", **names)
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "checkpoints").mkdir()
    require_kinds(tmp_path, **names)
    (tmp_path / "grids").touch()
    with pytest.raises(OSError, match="grids is a file, and the run needs a folder there; move"):
        require_kinds(tmp_path, **names)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(OSError, match="jsonl is a folder, and the run writes a file there; move"):
        require_kinds(tmp_path, **names)


def test_a_cache_that_the_config_puts_into_the_folder_is_no_other_run(tmp_path: Path) -> None:
    config = {"data": {"cache": str(tmp_path / "kept" / "banks")}, "log": {"folder": str(tmp_path)}}
    (tmp_path / "kept" / "banks").mkdir(parents=True)
    assert not claim(tmp_path, config)
    (tmp_path / "config.json").unlink()
    (tmp_path / "other").touch()
    with pytest.raises(ForeignRunError, match="but holds other"):
        claim(tmp_path, config)


def test_another_host_that_is_first_has_taken_the_folder_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Path.glob

    def late(path: Path, pattern: str) -> Iterator[Path]:
        monkeypatch.undo()
        claim(tmp_path, CONFIG)
        (tmp_path / "checkpoints").mkdir()
        return look(path, pattern)

    monkeypatch.setattr(Path, "glob", late)
    assert claim(tmp_path, CONFIG)
