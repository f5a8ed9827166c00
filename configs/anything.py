"""Erases whatever it is told: sentences, synonyms and prompts to preserve are made.

python train.py --config configs/anything.py --config.concept.word="cat"
python train.py --config configs/anything.py --config.concept.words="cat,dog"
python train.py --config configs/anything.py:flux-dev --config.concept.word="golden retriever"
ea-jax erase "golden retriever" --model flux-dev  # the same
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "tiny") -> ConfigDict:
    """The experiment for `MODEL` or `MODEL+PRESET`; see `configs.common`."""
    return common.experiment("{word}", variant)
