"""A run folder is resumed by the same configuration and by no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ea_jax.runtime.run_folder import ForeignRunError, claim

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
