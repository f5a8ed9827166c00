"""Erases a style: a way of drawing on flux-tiny, a painter on FLUX.1.

Paper: section 5.3 (Table 3, Abstraction) and Figures 4 and 14.

    python train.py --config configs/style.py
    python train.py --config configs/style.py:flux-dev --config.model.path=<folder or hub id>
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "tiny") -> ConfigDict:
    """The experiment for `MODEL` or `MODEL+PRESET`; see `configs.common`."""
    word = "Van Gogh" if variant.startswith("flux") else "pixel art"
    return common.experiment("style", variant, word=word)
