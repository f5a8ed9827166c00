"""Section `log`: what a run leaves behind; no value here changes a result."""

from __future__ import annotations

import dataclasses
import re

from ea_jax.settings.fields import SettingsError, check, choice, number, optional, shown, text


@dataclasses.dataclass(frozen=True)
class LogSettings:
    """What a run leaves behind; no value here changes a result.

    Attributes:
      folder: of the run; the command line puts what is erased in the place of `{word}`.
      every: steps between two lines of metrics.
      image_every: steps between two grids; 0 for the last only.
      checkpoint_every: steps between two checkpoints. keep: how many stay.
      pictures: grids and maps go to disk `plain`, `pixelated`, or not at all (`none`); `auto` is
        pixelated for nudity on another model than flux-tiny.
      profile_steps: `10:12` traces these steps for a profiler.
    """

    folder: str = text()
    every: int = number(int, low=1)
    image_every: int = number(int, low=0)
    checkpoint_every: int = number(int, low=1)
    keep: int = number(int, low=1)
    pictures: str = choice("auto", "plain", "pixelated", "none")
    profile_steps: str | None = optional(text())

    def __post_init__(self) -> None:
        check(self, "log")
        if self.profile_steps is not None:
            self.profiled()

    def profiled(self) -> range:
        """The steps to trace; none by default."""
        if self.profile_steps is None:
            return range(0)
        match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", self.profile_steps)
        if match is None or int(match[1]) >= int(match[2]):
            said = shown(self.profile_steps)
            raise SettingsError(f"log.profile_steps = {said} is no range; write first:last, 10:12")
        return range(int(match[1]), int(match[2]))

    def require_within(self, steps: int) -> None:
        """Raises SettingsError if the steps to trace begin after the last of a method's steps."""
        traced = self.profiled()
        if traced and traced.start >= steps:
            raise SettingsError(
                f"log.profile_steps = {self.profile_steps!r} begins after the last of the method's "
                f"{steps} steps; begin earlier, or set log.profile_steps=None"
            )
