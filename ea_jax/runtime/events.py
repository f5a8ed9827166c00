"""TensorBoard's files of events."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.proto import event_pb2 as generated
from tensorboardX.record_writer import RecordWriter

from convert.disk import reported

event_pb2: Any = generated  # made as it is imported: no checker knows its classes


class Events:
    """A file of events, written in the caller's thread.

    tensorboardX's own writer hands events to a thread. On a full disk that thread dies, and the
    next events wait for it forever.
    """

    def __init__(self, folder: Path, *, start: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Named by the time: a reader takes files in the order of their names.
        self._path = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        with reported(self._path):
            self._records = RecordWriter(str(self._path))
            self._write(event_pb2.Event(file_version="brain.Event:2"), 0)
            if start:
                # A file can't be shortened; its reader drops the steps of others from here on.
                begun = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._write(event_pb2.Event(session_log=begun), start + 1)
            self._records.flush()

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        self._add(step, *(summary.scalar(name, value) for name, value in numbers.items()))

    def image(self, step: int, name: str, image_HWC: np.ndarray) -> None:
        """A picture, uint8 or float in [0, 1]."""
        self._add(step, summary.image(name, image_HWC, dataformats="HWC"))

    def close(self) -> None:
        with reported(self._path):
            self._records.close()

    def _add(self, step: int, *summaries: Any) -> None:
        with reported(self._path):
            for made in summaries:
                self._write(event_pb2.Event(summary=made), step)
            self._records.flush()

    def _write(self, event: Any, step: int) -> None:
        event.step, event.wall_time = step, time.time()
        self._records.write(event.SerializeToString())
