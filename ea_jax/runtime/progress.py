"""Where a run stands: one line per level, with the time that is left.

    lower  120/300  esd 0.0412  attn 0.0310
    upper  120/300  keep 0.0021             2.1 pairs/s  1:25 left

On a terminal the lines are drawn over; elsewhere they are written again now and then.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TextIO

# The rate is that of the last few reports: the first steps compile, and a grid or a checkpoint
# in between should not be extrapolated to every step.
_WINDOW = 20


class Laps:
    """How long the parts of something took, in `seconds` by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Ends the part `name`, and begins the next one."""
        now = time.monotonic()
        self.seconds[name], self._last = round(now - self._last, 2), now


class Progress:
    """Lines of progress for a run of several levels.

    Args:
      total: steps of the whole run.
      done: steps that were done before, by a run that this one resumes.
      unit: what a step is, in the plural.
      every: seconds between two reports where the lines can't be drawn over.
      stream: where the lines go; the error stream by default, as other programs do.
      clock: seconds, rising.
    """

    def __init__(
        self,
        total: int,
        *,
        done: int = 0,
        unit: str = "pairs",
        every: float = 10.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._redraws = self._stream.isatty()
        self._every = 0.1 if self._redraws else every
        self._clock = clock
        self._marks: deque[tuple[int, float]] = deque([(done, clock())], maxlen=_WINDOW)
        self._shown_at: float | None = None
        self._lines = 0

    def due(self, step: int) -> bool:
        """Whether `update` would write now: ask before fetching losses from a device."""
        first_or_last = self._shown_at is None or step >= self._total
        return first_or_last or self._clock() - (self._shown_at or 0.0) >= self._every

    def update(self, step: int, levels: Mapping[str, Mapping[str, float]]) -> None:
        """Writes a line for each level, if it is time.

        Args:
          step: steps done of the whole run.
          levels: each level's terms by name.
        """
        if not self.due(step):
            return
        now = self._clock()
        self._shown_at = now
        self._marks.append((step, now))
        width = max(map(len, levels), default=0)
        lines = [
            f"{name:<{width}}  {step}/{self._total}  "
            + "  ".join(f"{term} {value:.4g}" for term, value in terms.items())
            for name, terms in levels.items()
        ]
        if lines:
            lines[-1] += f"  {self.rate()}"
        if self._redraws and self._lines:
            # Up over what was drawn, and clear from there on.
            self._stream.write(f"\x1b[{self._lines}F\x1b[J")
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._lines = len(lines)

    def break_lines(self) -> None:
        """Leaves the lines where they are, since something else is about to be written."""
        self._lines = 0

    def rate(self) -> str:
        """`2.1 pairs/s  1:25 left`, or nothing before there is a rate."""
        (first, start), (last, now) = self._marks[0], self._marks[-1]
        if last <= first or now <= start:
            return ""
        per_second = (last - first) / (now - start)
        left = (self._total - last) / per_second
        speed = (
            f"{per_second:.1f} {self._unit}/s"
            if per_second >= 1
            else f"{1 / per_second:.1f} s/{self._unit.removesuffix('s')}"
        )
        return f"{speed}  {duration(left)} left"


def duration(seconds: float) -> str:
    """`1:05` or `2:00:07`."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
