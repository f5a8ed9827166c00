"""A log of a run holds every step once, in files that other programs read."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from ea_jax.runtime.metrics import MetricsLog, NonFiniteError, Watch, require_finite
from ea_jax.runtime.progress import Progress


def events(folder: Path) -> list[Any]:
    """What TensorBoard's own reader finds."""
    files = sorted((folder / "tensorboard").iterdir())
    return [event for path in files for event in LegacyEventFileLoader(str(path)).Load()]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_scalars_reach_the_lines_and_tensorboard(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.scalars(3, {"lower/esd": jnp.float32(0.25), "upper/keep": 2})
    assert lines(tmp_path) == [{"step": 3, "lower/esd": 0.25, "upper/keep": 2.0}]
    logged = {
        (event.step, value.tag): value.simple_value
        for event in events(tmp_path)
        for value in event.summary.value
    }
    assert logged == {(3, "lower/esd"): 0.25, (3, "upper/keep"): 2.0}


@pytest.mark.parametrize(
    "spoiled",
    ['{"step": 2, "x"', "[]", "null", '{"x": 1}', '{"step": null}', "\xff", "", "[" * 9999],
)
def test_a_spoiled_line_is_dropped_with_what_follows_and_stops_no_run(
    tmp_path: Path, spoiled: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1, "x": 1}\n' + spoiled.encode("latin-1") + b'\n{"step": 3, "x": 3}\n'
    )
    with MetricsLog(tmp_path, start=3) as log:
        log.scalars(4, {"x": 4})
    assert [line["step"] for line in lines(tmp_path)] == [1, 4]
    [said] = caplog.messages
    assert said.endswith(
        "metrics.jsonl: line 2 can't be read; it is dropped, and the 1 lines after it"
    )


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for step in (1, 2, 3):
            log.scalars(step, {"x": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "x"')  # a kill cut this line off
    with MetricsLog(tmp_path, start=2) as log:
        log.scalars(3, {"x": 30})
    assert lines(tmp_path) == [{"step": 1, "x": 1}, {"step": 2, "x": 2}, {"step": 3, "x": 30}]
    assert any(
        event.session_log.status == event.session_log.START and event.step == 3
        for event in events(tmp_path)
    )


def test_a_number_that_json_lacks_is_null(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.scalars(1, {"x": float("nan")})
    assert lines(tmp_path) == [{"step": 1, "x": None}]


def test_a_loss_that_is_no_number_names_step_and_term() -> None:
    require_finite(7, {"esd": 1.0, "attn": jnp.float32(0)})
    with pytest.raises(NonFiniteError, match=r"attn is nan at step 7"):
        require_finite(7, {"esd": 1.0, "attn": jnp.float32(jnp.nan)})


def test_two_starts_within_a_second_keep_both_files(tmp_path: Path) -> None:
    for start in (0, 1):
        with MetricsLog(tmp_path, start=start) as log:
            log.scalars(start + 1, {"a": 1.0})
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert [event.step for event in events(tmp_path) if event.HasField("session_log")] == [2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard/events.out.tfevents"])
def test_a_full_disk_ends_a_run_and_does_not_hold_it_up(tmp_path: Path, name: str) -> None:
    """The way a run has it: closing the files, which writes once more, must not hide the error."""

    before = set(threading.enumerate())

    def run() -> None:
        with MetricsLog(tmp_path) as log:
            log.scalars(1, {"a": 1.0})
            file = log._lines if name == "metrics.jsonl" else log._events._records._writer
            with open("/dev/full", "w") as full:
                os.dup2(full.fileno(), file.fileno())
            log.scalars(2, {"a": 2.0})

    with pytest.raises(OSError, match=f"No space left.*{name}.* was not written: free"):
        run()
    assert lines(tmp_path)[0] == {"step": 1, "a": 1.0}
    assert set(threading.enumerate()) <= before, "a thread is left that writes later"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_what_only_closing_can_not_write_names_the_file(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    with open("/dev/full", "w") as full:
        os.dup2(full.fileno(), log._lines.fileno())
    log._lines.write("{}\n")
    with pytest.raises(OSError, match=r"metrics\.jsonl was not written: free"):
        log.close()
    assert log._events._records._writer.closed


class Term:
    """A scalar that says when it is fetched."""

    def __init__(self, value: float, fetched: list[float]) -> None:
        self._value, self._fetched = value, fetched

    def __float__(self) -> float:
        self._fetched.append(self._value)
        return self._value


def test_a_steps_terms_are_fetched_when_the_next_step_is_under_way(tmp_path: Path) -> None:
    fetched: list[float] = []
    with MetricsLog(tmp_path) as log:
        watch = Watch(log, Progress(3, stream=io.StringIO()), every=2, last=3)
        for step in (1, 2, 3):
            watch.add(step, {"lower": {"esd": Term(float(step), fetched)}})
            assert set(fetched) == set(range(1, step))
        watch.settle()
        assert set(fetched) == {1, 2, 3}
        watch.settle()
    assert [line["step"] for line in lines(tmp_path)] == [2, 3]


def test_what_is_no_number_is_named_by_its_own_step_when_the_next_is_added(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        watch = Watch(log, Progress(3, stream=io.StringIO()), every=1, last=3)
        watch.add(1, {"lower": {"esd": 0.5}})
        watch.add(2, {"lower": {"esd": float("nan")}})
        with pytest.raises(NonFiniteError, match=r"lower/esd is nan at step 2;"):
            watch.add(3, {"lower": {"esd": float("nan")}})
    assert [line["step"] for line in lines(tmp_path)] == [1]
