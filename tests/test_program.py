"""A user's mistake is one line; a program's own is a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ea_jax.runtime.metrics import NonFiniteError
from ea_jax.runtime.program import TRACEBACK, one_line_errors

ROOT = Path(__file__).parent.parent


def test_a_mistake_is_one_line_on_the_error_stream_and_code_1() -> None:
    program = """
import logging
from ea_jax.runtime.program import one_line_errors, start_logging
with one_line_errors():
    start_logging()
    logging.getLogger("ea_jax.x").info("loading")
    logging.getLogger("absl").info("chatter")
    raise ValueError("rank is 0;\\n  use 1")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "loading\nerror: rank is 0; use 1\n"


@pytest.mark.parametrize(
    "error", [ValueError("x"), FileNotFoundError("x"), NonFiniteError("x"), OSError()]
)
def test_values_files_and_losses_are_mistakes(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRACEBACK, raising=False)
    with pytest.raises(SystemExit, match=r"^error: (x|OSError)$"), one_line_errors():
        raise error


def test_a_fault_of_the_program_is_not_hidden() -> None:
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("x")


def test_the_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(ValueError, match="x"), one_line_errors():
        raise ValueError("x")


def test_ctrl_c_is_one_line_and_the_shell_s_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped; the same command starts it again\n"
