"""A folder that one process writes to at a time.

    with held(folder):
        ...

The kernel keeps the lock, and frees it when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from convert.disk import reported
from ea_jax.runtime.hosts import all_agree, is_first

# Hidden: no output of a run, and nothing that takes a folder for its config.
LOCK, HOLDER = ".lock", ".lock-holder"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_log = logging.getLogger(__name__)


class HeldError(ValueError):
    """Another process writes to the folder."""


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Holds a folder while the block runs; of several hosts the first one does.

    A folder that didn't exist is removed again if the block leaves nothing in it. On a file system
    without locks there is a warning, and the block runs.

    Args:
      folder: made if absent.
    Raises:
      HeldError: another process holds it. One line: which, since when, and the way out.
      OSError: the folder can't be made, or not be written to.
    """
    folder = Path(folder).absolute()
    with contextlib.ExitStack() as stack:
        trouble = None
        if is_first():
            try:
                stack.enter_context(_locked(folder))
            except (HeldError, OSError) as error:
                trouble = error
        if not all_agree(trouble is None):
            raise trouble or HeldError(
                f"the first host can't hold {folder}; its own message says why"
            )
        yield


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with reported(folder / LOCK):
            folder.mkdir(parents=True, exist_ok=True)
            lock = _acquired(folder)
        if lock is not None:
            _sign(folder)
        try:
            yield
        finally:
            if lock is not None:
                _let_go(folder, lock)
    finally:
        for path in made:
            # One that something is in stays.
            with contextlib.suppress(OSError):
                path.rmdir()


def _acquired(folder: Path) -> filelock.FileLock | None:
    """The lock; None where the file system has none."""
    # Its own fallback, a file that marks the folder, would outlive a killed process.
    lock = filelock.FileLock(folder / LOCK, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise HeldError(
            f"{folder} is in use: {_holder(folder)} holds it; wait until that process has ended, "
            "end it, or give another folder"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning(
            "the file system of %s has no locks (%s); start no second process in that folder",
            folder,
            error.strerror,
        )
        return None
    return lock


def _sign(folder: Path) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    # For people alone: a full disk shall not end the run here.
    with contextlib.suppress(OSError):
        text = f"process {os.getpid()} on host {socket.gethostname()}, since {since}"
        (folder / HOLDER).write_text(text, encoding="utf-8")


def _holder(folder: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        # What a kill cut off, or another program wrote there, shall be one short line.
        if text := " ".join((folder / HOLDER).read_text(encoding="utf-8").split())[:200]:
            return text
    return "another process"


def _let_go(folder: Path, lock: filelock.FileLock) -> None:
    with contextlib.suppress(OSError):
        (folder / HOLDER).unlink()
        # Removed while it is held: who opened it before then finds that it guards no name.
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
    lock.release()
