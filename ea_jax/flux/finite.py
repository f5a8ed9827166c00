"""Pictures that hold NaN or Inf: a PNG would show them as black, a detector as anything."""

from __future__ import annotations

import numpy as np

from ea_jax.runtime.metrics import NonFiniteError


def require_finite(images_BHWC: np.ndarray, which: str = "") -> np.ndarray:
    """Returns pictures, or latents, as they are.

    Args:
      images_BHWC: of any shape, the picture first.
      which: pictures these are, for the message: "of 'a cat'".
    Raises:
      NonFiniteError: one of them holds NaN or Inf.
    """
    axes = tuple(range(1, images_BHWC.ndim))
    broken = np.flatnonzero(~np.isfinite(images_BHWC).all(axes))
    if len(broken):
        raise NonFiniteError(
            f"{len(broken)} of {len(images_BHWC)} pictures {which}".rstrip()
            + " hold NaN or Inf; lower the LoRA's strength or the guidance, or see whether the "
            "base model alone paints them"
        )
    return images_BHWC
