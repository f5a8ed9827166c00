"""A file is written whole or not at all, and a failing disk names it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ea_jax.runtime.writing import draft, reported


def test_a_draft_takes_the_place_of_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with draft(path) as unfinished:
        assert unfinished.suffix == ".json"
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def fail_half_way(path: Path) -> None:
    with draft(path) as unfinished:
        unfinished.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_draft_leaves_the_old_file_alone_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(OSError, match=r"No space left on device; .*a\.json was not written: free"):
        fail_half_way(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError("encoder error -2\nwhen writing"), "encoder error -2; "), (OSError(), "OSError; ")],
)
def test_every_error_of_a_disk_is_one_line(tmp_path: Path, error: OSError, reason: str) -> None:
    with pytest.raises(OSError, match="was not written") as caught, reported(tmp_path / "a.json"):
        raise error
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_drafts_of_one_file_don_t_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with draft(path) as first:
        first.write_text("first")
        with draft(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
