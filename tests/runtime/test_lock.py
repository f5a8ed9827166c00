"""One process at a time writes to a folder, and whoever comes second is told who does."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest
from places import ROOT

from ea_jax.runtime import hosts, lock
from ea_jax.runtime.lock import HeldError, held
from ea_jax.runtime.run_folder import check

HOLD = """
import sys
from ea_jax.runtime.lock import held
with held(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with process:
        yield process
        process.kill()


def test_the_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as first:
        told = rf"run is in use: process {first.pid} on host \S+, since 2\d\d\d-.* holds it; wait"
        with pytest.raises(HeldError, match=told), held(tmp_path / "run"):
            pass
        # The holder's own are untouched.
        with pytest.raises(HeldError, match=f"process {first.pid} "), held(tmp_path / "run"):
            pass


def test_a_killed_holder_frees_the_folder(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        first.kill()
        first.wait()
        with held(tmp_path):
            assert str(os.getpid()) in (tmp_path / lock.HOLDER).read_text()


def test_one_process_can_hold_a_folder_again(tmp_path: Path) -> None:
    for _ in range(2):
        with held(tmp_path):
            (tmp_path / "made").touch()
    assert not (tmp_path / lock.HOLDER).exists()


def test_a_start_that_leaves_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), held(tmp_path / "runs" / "new"):
        raise KeyError
    assert not list(tmp_path.iterdir())
    (tmp_path / "empty").mkdir()
    with held(tmp_path / "empty"):
        pass
    assert not list((tmp_path / "empty").iterdir())


def test_what_a_lock_leaves_is_no_other_command_s_run(tmp_path: Path) -> None:
    with held(tmp_path):
        assert not check(tmp_path, {"a": 1})
    with held(tmp_path):
        os.link(tmp_path / lock.LOCK, tmp_path / ".lock-of-before")
    assert not check(tmp_path, {"a": 1})


def test_a_folder_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file is a file, not a folder"), held(tmp_path / "file/run"):
        pass


def test_where_there_are_no_locks_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    with held(tmp_path):
        (tmp_path / "made").touch()
    [said] = caplog.messages
    assert "has no locks (No locks available); start no second process" in said


def test_hosts_after_the_first_end_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(lock, "is_first", lambda: False)
    monkeypatch.setattr(lock, "all_agree", lambda mine: bool(asked.append(mine)))
    with pytest.raises(HeldError, match="the first host can't hold"), held(tmp_path / "run"):
        pass
    assert asked == [True]
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(lock, "all_agree", hosts.all_agree)
    with held(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())
