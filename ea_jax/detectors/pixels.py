"""Pictures as an encoder sees them: resized, cut to a square, normalised."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from ea_jax.runtime.pixels import as_bytes


@dataclasses.dataclass(frozen=True)
class Pixels:
    """How pictures become an encoder's input.

    Attributes:
      shortest: length of the shorter side after resizing, in pixels.
      crop: side of the square that is cut out of the middle.
      mean, std: of the three channels, in [0, 1].
    """

    shortest: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images_BHWC: np.ndarray) -> np.ndarray:
        """Resizes (bicubic, as Pillow does), crops the middle, and normalises.

        Args:
          images_BHWC: [B, H, W, 3] in [0, 1]; rounded to 8 bits first, as in a saved picture.
        Returns:
          [B, crop, crop, 3] float32.
        """
        bytes_BHWC = as_bytes(images_BHWC)
        squares = [self.square(Image.fromarray(image)) for image in bytes_BHWC]
        return self.normalised(np.stack(squares))

    def square(self, picture: Image.Image) -> np.ndarray:
        """Resizes and crops a picture: uint8 [crop, crop, 3]."""
        short = min(picture.size)
        # Rounded down, as transformers does.
        width, height = (self.shortest * side // short for side in picture.size)
        resized = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self.crop) // 2, (height - self.crop) // 2
        return np.asarray(resized)[top : top + self.crop, left : left + self.crop]

    def normalised(self, bytes_BHWC: np.ndarray) -> np.ndarray:
        """float32 of squares of bytes, as the encoder was trained on."""
        mean_C, std_C = (np.asarray(one, np.float32) for one in (self.mean, self.std))
        return (bytes_BHWC.astype(np.float32) / 255 - mean_C) / std_C
