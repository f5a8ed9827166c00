"""TensorBoard's files of events."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2 as events
from tensorboard.compat.proto import summary_pb2 as summaries
from tensorboard.summary.writer.record_writer import RecordWriter

from convert.disk import reported

# Made as they are imported: no checker knows their classes.
event_pb2: Any = events
summary_pb2: Any = summaries


class Events:
    """A file of events, written in the caller's thread, so that its errors reach the caller."""

    def __init__(self, folder: Path, *, start: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Named by the time: a reader takes files in the order of their names.
        self._path = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        with reported(self._path):
            self._records = RecordWriter(self._path.open("xb"))
            self._write(event_pb2.Event(file_version="brain.Event:2"), 0)
            if start:
                # A file can't be shortened; its reader drops the steps of others from here on.
                begun = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._write(event_pb2.Event(session_log=begun), start + 1)
            self._records.flush()

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        self._add(
            step,
            *(
                summary_pb2.Summary.Value(tag=name, simple_value=value)
                for name, value in numbers.items()
            ),
        )

    def close(self) -> None:
        with reported(self._path):
            self._records.close()

    def _add(self, step: int, *values: Any) -> None:
        with reported(self._path):
            for value in values:
                self._write(event_pb2.Event(summary=summary_pb2.Summary(value=[value])), step)
            self._records.flush()

    def _write(self, event: Any, step: int) -> None:
        event.step, event.wall_time = step, time.time()
        self._records.write(event.SerializeToString())
