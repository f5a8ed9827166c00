"""A line per level, and a time left that follows the recent rate."""

from __future__ import annotations

import io

import pytest

from ea_jax.runtime.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


LEVELS = {"lower": {"esd": 0.04123, "attn": 0.5}, "upper": {"keep": 2e-5}}


def test_each_level_has_a_line_and_the_last_says_what_is_left() -> None:
    clock, out = Clock(), io.StringIO()
    progress = Progress(300, stream=out, clock=clock)
    clock.now = 50
    progress.update(100, LEVELS)
    assert out.getvalue().splitlines() == [
        "lower  100/300  esd 0.04123  attn 0.5",
        "upper  100/300  keep 2e-05  2.0 pairs/s  1:40 left",
    ]


def test_the_first_and_the_last_report_are_never_held_back() -> None:
    clock, out = Clock(), io.StringIO()
    progress = Progress(4, stream=out, clock=clock)
    for step in (1, 2, 3, 4):
        clock.now += 1
        progress.update(step, {"lower": {}})
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["1/4", "4/4"]


def test_a_terminal_is_drawn_over_and_a_file_is_not() -> None:
    for out, draws_over in ((Terminal(), True), (io.StringIO(), False)):
        clock = Clock()
        progress = Progress(9, stream=out, clock=clock)
        for step in (1, 2):
            clock.now += 60
            progress.update(step, LEVELS)
        assert ("\x1b[2F\x1b[J" in out.getvalue()) is draws_over
        assert out.getvalue().count("lower") == 2


def test_the_rate_forgets_a_slow_start() -> None:
    clock = Clock()
    progress = Progress(1000, stream=io.StringIO(), every=0, clock=clock)
    clock.now = 1000  # compiling
    for step in range(1, 101):
        clock.now += 0.5
        progress.update(step, {"lower": {}})
    assert progress.rate() == "2.0 pairs/s  7:30 left"


def test_a_resumed_run_counts_only_its_own_steps_for_the_rate() -> None:
    clock = Clock()
    progress = Progress(100, done=90, stream=io.StringIO(), clock=clock)
    clock.now = 50
    progress.update(95, {"lower": {}})
    assert progress.rate() == "10.0 s/pair  0:50 left"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0:00"), (59.6, "1:00"), (65, "1:05"), (7207, "2:00:07")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
