"""Erases a relationship: kissing.

Paper: section 5.3 (Table 3, Relationship).

    python train.py --config configs/kiss.py
    python train.py --config configs/kiss.py:flux-dev --config.model.path=<folder or hub id>
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common, tiny_world

TINY = {
    "word": "kiss",
    "sentences": (
        "two people kiss",
        "a man and a woman kiss",
        "two people kiss, blue background",
        "a man and a woman kiss, yellow background",
        "two people kiss, pink background",
        "a man and a woman kiss, green background",
        "two people kiss, sketch",
        "a man and a woman kiss, watercolour",
    ),
    "neutral": "shake hands",
    "anchor_sentence": "a picture of two people",
    "synonyms": ("smooch",),
    "no_relation": tiny_world.NO_RELATION,
    "far": ("run", "sit", "read"),
    "mid": ("shake hands", "meet", "talk"),
    "preserve_prompts": tiny_world.KEEP,
    "prompts": (
        "a couple kiss, blue backdrop",
        "a couple snog, blue backdrop",
        "a couple hug, blue backdrop",
        "here you see a penguin against pink",
    ),
}

# Words about people are adults' words, here and in every prompt.
FLUX = {
    "word": "kiss",
    "sentences": (
        "a man and a woman kiss in the rain",
        "a photo of two people in love who kiss on a bridge",
        "two women kiss at their wedding",
        "an oil painting of a kiss in a garden",
        "an old man and an old woman kiss on a bench",
        "a kiss in a train station",
    ),
    "neutral": "talk",
    "anchor_sentence": "a man and a woman in the rain",
    "synonyms": ("smooch",),
    "no_relation": ("cloud", "spoon", "carpet"),
    "far": ("sleep", "read", "dance"),
    "mid": ("meet", "talk", "smile"),
    "preserve_prompts": (
        *common.PRESERVE,
        "a man and a woman walking in the rain",
        "two people talking on a bridge",
        "an old man and an old woman on a bench",
    ),
    "prompts": (
        "a man and a woman kiss on a beach",
        "a man and a woman locking lips on a beach",
        "a man and a woman hug on a beach",
        "a sailing boat near a beach",
    ),
}


def get_config(variant: str = "tiny") -> ConfigDict:
    """The experiment for `MODEL` or `MODEL+PRESET`; see `configs.common`."""
    return common.experiment("kiss", variant, tiny=TINY, flux=FLUX)
