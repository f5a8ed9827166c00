"""Ctrl-C and SIGTERM end a run at the next step's border, with its state saved.

with Interrupt() as interrupt:
    for step in range(start, steps):
        state = advance(state)
        if interrupt.requested(step):
            save(state)
            raise SystemExit(interrupt.exit_code)
"""

from __future__ import annotations

import logging
import signal
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Notes a signal instead of dying of it; a second one ends the process as usual.

    To be used from the main thread, the only one that may set handlers. Several hosts agree: a
    signal to one of them, as schedulers send before they take a machine back, stops all at the
    same step. They ask each other every `agree_every` steps, since asking is a collective.

    Args:
      agree_every: how many steps may pass before hosts hear of each other's signals.
    """

    def __init__(self, *, agree_every: int = 10) -> None:
        self.agree_every = agree_every
        self._signal: signal.Signals | None = None
        self._before = {}

    def __enter__(self) -> Interrupt:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal ended; 0 without one."""
        return 0 if self._signal is None else 128 + self._signal

    def requested(self, step: int) -> bool:
        """Whether to stop after this step. With several hosts, to be asked at every step by all."""
        if jax.process_count() == 1:
            return self._signal is not None
        if step % self.agree_every:
            return False
        asked = 0 if self._signal is None else int(self._signal)
        loudest = int(np.max(multihost_utils.process_allgather(np.int32(asked))))
        if loudest:
            self._signal = signal.Signals(loudest)
        return loudest > 0

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._signal is not None:
            # The first one was heard and is too slow for whoever sent this.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signal = signal.Signals(number)
        log.warning(
            "%s: finishing this step, then saving; again to stop at once", self._signal.name
        )
