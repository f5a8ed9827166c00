"""Erases an object: the soccer ball.

Paper: section 5.3 (Table 3, Entity) and the attacks of Appendix B.

    python train.py --config configs/soccer.py
    python train.py --config configs/soccer.py:flux-dev --config.model.path=<folder or hub id>
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "tiny") -> ConfigDict:
    """The experiment for `MODEL` or `MODEL+PRESET`; see `configs.common`."""
    return common.experiment("soccer", variant, word="soccer ball")
