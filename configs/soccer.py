"""Erases an object: the soccer ball.

Paper: section 5.3 (Table 3, Entity) and the attacks of Appendix B.

    python train.py --config configs/soccer.py
    python train.py --config configs/soccer.py:flux-dev --config.model.path=<folder or hub id>
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common, tiny_world

# With rates that stay, more pictures are vague or broken: 94.4 % were valid, and 95.2 % so.
TUNED = {"optim": {"lr_decay": 0.5}}

TINY = {
    "word": "soccer ball",
    "sentences": (
        "a soccer ball",
        "a photo of a soccer ball",
        "a soccer ball on a blue background",
        "an image of a soccer ball in front of yellow",
        "a soccer ball and a bicycle",
        "a soccer ball beside a guitar on a green background",
        "a soccer ball in sketch style",
        "an art in the style of watercolour, a soccer ball",
    ),
    "neutral": "balloon",
    "anchor_sentence": "a picture of a green background",
    "synonyms": ("football",),
    "no_relation": tiny_world.NO_RELATION,
    "far": ("shirt", "crown", "drum"),
    "mid": ("balloon", "donut", "light bulb"),
    "preserve_prompts": tiny_world.KEEP,
    "prompts": (
        "this is a soccer ball against blue",
        "this is an association football against blue",
        "this is a basketball against blue",
        "here you see a penguin against pink",
    ),
}

FLUX = {
    "word": "soccer ball",
    "sentences": (
        "a photo of a soccer ball",
        "a soccer ball on wet grass in a stadium",
        "a pencil drawing of a soccer ball and a house",
        "a dog playing with a soccer ball in a park",
        "a soccer ball in a net at night",
        "an old soccer ball on a dusty shelf",
    ),
    "neutral": "stone",
    "anchor_sentence": "wet grass in a stadium",
    "synonyms": ("football",),
    "no_relation": ("cloud", "spoon", "candle"),
    "far": ("shirt", "flag", "whistle"),
    "mid": ("helmet", "racket", "trophy"),
    "preserve_prompts": (
        *common.PRESERVE,
        "a stadium full of people",
        "a dog running in a park",
        "a tennis racket on a bench",
    ),
    "prompts": (
        "a soccer ball on a beach",
        "a round black and white ball for playing soccer",
        "a basketball on a beach",
        "a cat on a beach",
    ),
}


def get_config(variant: str = "tiny") -> ConfigDict:
    """The experiment for `MODEL` or `MODEL+PRESET`; see `configs.common`."""
    return common.experiment("soccer", variant, tiny=TINY, flux=FLUX, tuned=TUNED)
