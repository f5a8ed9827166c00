"""Erases a style: a way of drawing on flux-tiny, a painter on FLUX.1.

Paper: section 5.3 (Table 3, Abstraction) and Figures 4 and 14.

    python train.py --config configs/style.py
    python train.py --config configs/style.py:flux-dev --config.model.path=<folder or hub id>
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common, tiny_world

# With `robust` unchanged 60 % of the pictures of held-out names still show the style; so, 16 %.
TUNED = {
    "loss": {"eta": 0.5, "t_draw": "uniform"},
    "data": {"inversions": 16},
}

TINY = {
    "word": "pixel art",
    "sentences": (
        "a guitar in pixel art style",
        "an art in the style of pixel art, a rocket",
        "pixel art of an elephant",
        "a photo of a key, pixel art",
        "a bicycle on a blue background in pixel art style",
        "an umbrella in front of yellow, pixel art",
        "an art in the style of pixel art, Pierrot on a green background",
        "a turtle and a drum in pixel art style",
    ),
    "neutral": "flat art",
    "anchor_sentence": "a picture of a guitar",
    "synonyms": ("8-bit graphics",),
    "no_relation": tiny_world.NO_RELATION,
    "far": ("fire", "crown", "shirt"),
    "mid": ("sketch", "neon", "watercolour"),
    "preserve_prompts": tiny_world.KEEP,
    "prompts": (
        "here you see a penguin rendered as pixel art",
        "here you see a penguin rendered as blocky pixels",
        "here you see a penguin rendered as mosaic",
        "here you see a penguin against pink",
    ),
}

FLUX = {
    "word": "Van Gogh",
    "sentences": (
        "a Van Gogh painting of a village at night",
        "a wheat field with crows, painted by Van Gogh",
        "a vase of sunflowers in the style of Van Gogh",
        "a Van Gogh portrait of a man with a pipe",
        "a bedroom with a wooden chair, in the style of Van Gogh",
        "a Van Gogh style painting of a harbour",
    ),
    "neutral": "photographic",
    "anchor_sentence": "a painting of a village at night",
    "synonyms": ("the painter of The Starry Night",),
    "no_relation": ("cloud", "spoon", "carpet"),
    "far": ("museum", "frame", "brush"),
    "mid": ("poster", "print", "drawing"),
    "preserve_prompts": (
        *common.PRESERVE,
        "a painting of a village at night",
        "a photo of a vase of sunflowers",
        "a Rembrandt portrait of a man with a hat",
    ),
    "prompts": (
        "a bridge over a river in the style of Van Gogh",
        "a bridge over a river by the Dutch painter who cut off his ear",
        "a bridge over a river in the style of Claude Monet",
        "a photo of a bridge over a river",
    ),
}


def get_config(variant: str = "tiny") -> ConfigDict:
    """The experiment for `MODEL` or `MODEL+PRESET`; see `configs.common`."""
    return common.experiment("style", variant, tiny=TINY, flux=FLUX, tuned=TUNED)
