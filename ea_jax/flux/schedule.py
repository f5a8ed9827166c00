"""Flow-match Euler schedule of FLUX: noise levels from 1 (pure noise) down to 0."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Constants of a diffusers `FlowMatchEulerDiscreteScheduler`, read from its config.

    Attributes:
      shift: static shift of the noise levels, used when `use_dynamic_shifting` is False.
      use_dynamic_shifting: shift by e^mu, mu linear in the number of image tokens.
      base_shift, max_shift: mu at `base_image_seq_len` and `max_image_seq_len` tokens.
    """

    shift: float
    use_dynamic_shifting: bool
    base_shift: float
    max_shift: float
    base_image_seq_len: int
    max_image_seq_len: int

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Schedule:
        """Reads a `scheduler_config.json`.

        Raises:
          ValueError: another scheduler class, or an option that would change the noise levels
            in a way that is not implemented.
        """
        name = config.get("_class_name", "FlowMatchEulerDiscreteScheduler")
        if name != "FlowMatchEulerDiscreteScheduler":
            raise ValueError(
                f"scheduler {name!r} is not supported; FLUX uses FlowMatchEulerDiscreteScheduler"
            )
        refused = [
            "invert_sigmas",
            "shift_terminal",
            "stochastic_sampling",
            "use_beta_sigmas",
            "use_exponential_sigmas",
            "use_karras_sigmas",
        ]
        for key in refused:
            if config.get(key):
                raise ValueError(
                    f"scheduler option {key}={config[key]!r} is not supported; FLUX leaves it off"
                )
        if config.get("time_shift_type", "exponential") != "exponential":
            raise ValueError(
                f"scheduler option time_shift_type={config['time_shift_type']!r} is not "
                "supported; FLUX uses 'exponential'"
            )
        return cls(
            shift=float(config.get("shift", 1.0)),
            use_dynamic_shifting=bool(config.get("use_dynamic_shifting", False)),
            base_shift=float(config.get("base_shift") or 0.5),
            max_shift=float(config.get("max_shift") or 1.15),
            base_image_seq_len=int(config.get("base_image_seq_len") or 256),
            max_image_seq_len=int(config.get("max_image_seq_len") or 4096),
        )

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
        shift = math.exp(self.mu(image_tokens)) if self.use_dynamic_shifting else self.shift
        return np.append(self.shifted(sigma, shift), 0.0).astype(np.float32)

    @staticmethod
    def shifted(sigma: np.ndarray, shift: float) -> np.ndarray:
        """Moves noise levels in (0, 1] towards 1: shift / (shift + 1 / sigma - 1)."""
        return shift / (shift + (1.0 / sigma - 1.0))
