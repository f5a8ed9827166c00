"""A signal waits for the step's end, and is gone with its block."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys

import jax
import pytest
from places import ROOT

from ea_jax.runtime import interrupt as interrupts
from ea_jax.runtime.interrupt import Interrupt


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_noted_and_the_block_goes_on(
    number: signal.Signals, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(number)
    with Interrupt() as interrupt, caplog.at_level(logging.WARNING):
        assert not interrupt.requested(1)
        assert interrupt.exit_code == 0
        signal.raise_signal(number)
        assert interrupt.requested(2)
        assert interrupt.exit_code == code
    assert f"{number.name}: finishing this step" in caplog.text
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_the_process() -> None:
    program = """
import signal
from ea_jax.runtime.interrupt import Interrupt
with Interrupt() as interrupt:
    signal.raise_signal(signal.SIGINT)
    print(interrupt.requested(0), flush=True)
    signal.raise_signal(signal.SIGINT)
    print("not reached", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "True\n"
    assert done.returncode == -signal.SIGINT


def test_hosts_agree_on_the_step_to_stop_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host's SIGTERM, heard where the hosts ask each other."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        interrupts.multihost_utils, "process_allgather", lambda mine: [mine, signal.SIGTERM]
    )
    with Interrupt(agree_every=10) as interrupt:
        assert [step for step in range(1, 21) if interrupt.requested(step)] == [10, 20]
        assert interrupt.exit_code == 143
