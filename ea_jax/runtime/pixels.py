"""Pictures as a file holds them."""

from __future__ import annotations

import numpy as np


def as_bytes(images: np.ndarray) -> np.ndarray:
    """Pictures in [0, 1] as uint8 of the same shape; what lies outside is cut off."""
    return np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)
