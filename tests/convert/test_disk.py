"""A file is written whole or not at all, and a failing disk names it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from convert.disk import FileError, draft, entry, read_json, reported


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


def refused(action, said: str) -> str:
    with pytest.raises(OSError, match="was not written") as caught:
        action()
    assert said in str(caught.value)
    assert "free some space" not in str(caught.value)
    return str(caught.value)


def write(path: Path) -> None:
    with draft(path) as unfinished:
        unfinished.write_text("new")


def test_a_file_in_the_place_of_a_folder_is_named_as_that(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = f"{tmp_path / 'file'} is a file, not a folder"
    refused(lambda: write(tmp_path / "file" / "a.json"), said)

    def make() -> None:
        with reported(tmp_path / "file" / "a.json"):
            (tmp_path / "file").mkdir()

    refused(make, said)


def test_a_folder_in_the_place_of_a_file_is_named_as_that(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    refused(lambda: write(tmp_path / "a.json"), "that is a folder, not a file")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


def test_a_folder_that_may_not_be_written_is_named_as_that(tmp_path: Path) -> None:
    def forbidden() -> None:
        with reported(tmp_path / "a.json"):
            raise PermissionError(errno.EACCES, "Permission denied")

    refused(forbidden, "this user may not write there; choose another folder")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "holds a list ([1, 2]), not an object; write it again"),
        ("null", "holds null, not an object"),
        ('{"a": ', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
    ],
)
def test_a_json_file_of_another_form_is_named(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FileError) as caught:
        read_json(path, way_out="write it again")
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_a_json_file_that_is_absent_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"a\.json does not exist; write it again"):
        read_json(tmp_path / "a.json", way_out="write it again")
    with pytest.raises(FileError, match=r"can't be read \(Is a directory\); write it again"):
        read_json(tmp_path, way_out="write it again")


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (None, int, "'n' is null, not a whole number"),
        (True, int, "'n' is true or false (true), not a whole number"),
        (1.5, int, "'n' is a number (1.5), not a whole number"),
        ("4", float, "'n' is text (\"4\"), not a number"),
        ([], dict, "'n' is a list ([]), not an object"),
    ],
)
def test_an_entry_of_another_kind_names_file_and_key(value, kind: type, said: str) -> None:
    with pytest.raises(FileError) as caught:
        entry({"n": value}, "n", kind, where="run.json", way_out="write it again")
    assert str(caught.value) == f"run.json: {said}; write it again"


def test_an_entry_that_is_right_comes_back() -> None:
    rest = {"where": "run.json", "way_out": "write it again"}
    assert entry({"n": 3}, "n", float, **rest) == 3
    assert entry({"n": False}, "n", bool, **rest) is False
    with pytest.raises(FileError, match=r"run\.json lacks 'n'; write it again"):
        entry({}, "n", int, **rest)
