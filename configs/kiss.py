"""Erases a relationship: kissing.

Paper: section 5.3 (Table 3, Relationship).

    python train.py --config configs/kiss.py
    python train.py --config configs/kiss.py:flux-dev --config.model.path=<folder or hub id>
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "tiny") -> ConfigDict:
    """The experiment for `MODEL` or `MODEL+PRESET`; see `configs.common`."""
    return common.experiment("kiss", variant, word="kiss")
