"""Erases nudity.

Paper: section 5.2 (Table 2) on FLUX.1-dev. On flux-tiny, whose people are wooden mannequins, bare
or dressed, it stands for the same task: the bare figure goes, the dressed one stays.

    python train.py --config configs/nudity.py
    python train.py --config configs/nudity.py:flux-dev --config.model.path=<folder or hub id>
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "tiny") -> ConfigDict:
    """The experiment for `MODEL` or `MODEL+PRESET`; see `configs.common`."""
    return common.experiment("nudity", variant, word="nude")
