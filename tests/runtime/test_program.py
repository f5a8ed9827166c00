"""A user's mistake is one line; a program's own is a traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from jax.errors import JaxRuntimeError
from places import ROOT

from ea_jax.runtime.metrics import NonFiniteError
from ea_jax.runtime.program import TRACEBACK, one_line_errors


def test_a_mistake_is_one_line_on_the_error_stream_and_code_1() -> None:
    program = """
import logging
from ea_jax.runtime.program import one_line_errors, start_program
with one_line_errors():
    start_program()
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


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n\nBig table"),
            r"^error: out of device memory \(RESOURCE_EXHAUSTED: .*\); set optim.batch=1$",
        ),
        (
            MemoryError("Unable to allocate 8.00 PiB"),
            r"^error: out of host memory \(Unable to allocate 8.00 PiB\); set optim.batch=1$",
        ),
    ],
)
def test_where_memory_runs_out_it_says_what_needs_less(error: Exception, said: str) -> None:
    with pytest.raises(SystemExit, match=said), one_line_errors("set optim.batch=1"):
        raise error


def test_another_error_of_xla_is_a_fault_of_the_program() -> None:
    with pytest.raises(JaxRuntimeError, match="INTERNAL"), one_line_errors():
        raise JaxRuntimeError("INTERNAL: a kernel failed")


@pytest.mark.parametrize("backend", ["cuda", "tpu", "no_such"])
def test_a_backend_that_is_absent_is_named(backend: str) -> None:
    program = """
import jax
from ea_jax.runtime.program import one_line_errors
with one_line_errors():
    jax.devices()
    raise SystemExit("there is one")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": backend},
    )
    if done.stderr == "there is one\n":
        pytest.skip(f"this machine has {backend}")
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"error: JAX_PLATFORMS={backend} asks for a backend that can't be used")
    assert said.endswith("set JAX_PLATFORMS=cpu, or unset it to take what is here")
    assert "Traceback" not in done.stderr


def test_an_assertion_of_ours_is_a_fault_of_the_program() -> None:
    with pytest.raises(AssertionError), one_line_errors():
        raise AssertionError


def test_the_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(ValueError, match="x"), one_line_errors():
        raise ValueError("x")


def test_ctrl_c_is_one_line_and_the_shell_s_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped; the same command starts it again\n"
