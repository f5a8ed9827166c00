"""Flow-match Euler schedule of FLUX: noise levels from 1 (pure noise) down to 0."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from ea_jax.flux import described
from ea_jax.settings.fields import check, flag, number

# e^20: no noise level below 1 is left in float32.
_MAX_MU = 20.0
_OFF = (False, None)
_RULES = described.Rules(
    fixed={
        "invert_sigmas": _OFF,
        "num_train_timesteps": (1000,),
        "shift_terminal": (None,),
        "stochastic_sampling": _OFF,
        "time_shift_type": ("exponential",),
        "use_beta_sigmas": _OFF,
        "use_exponential_sigmas": _OFF,
        "use_flow_sigmas": _OFF,
        "use_karras_sigmas": _OFF,
    }
)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Constants of a diffusers `FlowMatchEulerDiscreteScheduler`, read from its config.

    Attributes:
      shift: static shift of the noise levels, used when `use_dynamic_shifting` is False.
      use_dynamic_shifting: shift by e^mu, mu linear in the number of image tokens.
      base_shift, max_shift: mu at `base_image_seq_len` and `max_image_seq_len` tokens.
    """

    shift: float = number(float, low=0, high=1000, above=True, default=1.0)
    use_dynamic_shifting: bool = flag(default=False)
    base_shift: float = number(float, low=-10, high=10, default=0.5)
    max_shift: float = number(float, low=-10, high=10, default=1.15)
    base_image_seq_len: int = number(int, low=1, default=256)
    max_image_seq_len: int = number(int, low=1, default=4096)

    def __post_init__(self) -> None:
        check(self, "scheduler")
        if self.max_image_seq_len <= self.base_image_seq_len:
            raise ValueError(
                f"max_image_seq_len={self.max_image_seq_len} must be more than "
                f"base_image_seq_len={self.base_image_seq_len}"
            )

    @classmethod
    def from_json(
        cls, config: dict[str, Any], where: str | Path = "scheduler_config.json"
    ) -> Schedule:
        """Reads a `scheduler_config.json`; `where` names it in messages.

        Raises:
          ValueError: another scheduler class, an invalid value, or an option that would change
            the noise levels in a way that is not implemented.
        """
        name = config.get("_class_name", "FlowMatchEulerDiscreteScheduler")
        if name != "FlowMatchEulerDiscreteScheduler":
            raise ValueError(
                f"{where}: scheduler {name!r} is not supported; FLUX uses "
                "FlowMatchEulerDiscreteScheduler"
            )
        return described.read(config, cls, _RULES, where)

    def mu(self, image_tokens: int) -> float:
        """Logarithm of the dynamic shift; 0.63 at 1,024 tokens of FLUX.1-dev, 1.15 at 4,096."""
        span = self.max_image_seq_len - self.base_image_seq_len
        slope = (self.max_shift - self.base_shift) / span
        return self.base_shift + slope * (image_tokens - self.base_image_seq_len)

    def sigmas(self, steps: int, image_tokens: int) -> np.ndarray:
        """Noise levels that a sampler visits.

        Args:
          steps: number of Euler steps, at least 1.
          image_tokens: packed image tokens; sets the dynamic shift.
        Returns:
          [steps + 1] float32, from 1 down to 0.
        Raises:
          ValueError: fewer than one step.
        """
        if steps < 1:
            raise ValueError(f"steps={steps}; sampling needs at least 1")
        sigma = np.linspace(1.0, 1.0 / steps, steps).astype(np.float32)
        shift = self.shift
        if self.use_dynamic_shifting:
            mu = self.mu(image_tokens)
            if abs(mu) > _MAX_MU:
                raise ValueError(
                    f"the schedule's shift at {image_tokens} image tokens is e^{mu:.0f}; check "
                    "base_shift and max_shift in scheduler_config.json, or paint a smaller picture"
                )
            shift = math.exp(mu)
        return np.append(self.shifted(sigma, shift), 0.0).astype(np.float32)

    @staticmethod
    def shifted(sigma: np.ndarray, shift: float) -> np.ndarray:
        """Moves noise levels in (0, 1] towards 1: shift / (shift + 1 / sigma - 1)."""
        return shift / (shift + (1.0 / sigma - 1.0))
