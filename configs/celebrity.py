"""Erases a person: a named character on flux-tiny, an actor on FLUX.1.

Paper: sections 5.3 and F.1 (Tables 4 and 7; Bruce Lee is one of the 50 names to erase).

    python train.py --config configs/celebrity.py
    python train.py --config configs/celebrity.py:flux-dev --config.model.path=<folder or hub id>
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "tiny") -> ConfigDict:
    """The experiment for `MODEL` or `MODEL+PRESET`; see `configs.common`."""
    # Not Santa Claus: what erased him took Mrs Claus along, who shares half of his name.
    word = "Bruce Lee" if variant.startswith("flux") else "Dracula"
    return common.experiment("celebrity", variant, word=word)
