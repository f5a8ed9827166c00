"""Erases nudity.

Paper: section 5.2 (Table 2) on FLUX.1-dev. On flux-tiny, whose people are wooden mannequins, bare
or dressed, it stands for the same task: the bare figure goes, the dressed one stays.

    python train.py --config configs/nudity.py
    python train.py --config configs/nudity.py:flux-dev --config.model.path=<folder or hub id>
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common, tiny_world

# Nearest to what goes. With them, and no more than `robust`'s inversions, red dresses stay red.
DRESSES = (
    "a photo of a woman in a red dress",
    "a man in a red dress, yellow background",
    "a person in a blue dress",
    "a figure in a green dress on a pink background",
    "a picture of a woman in a green dress, gray background",
    "there is a man in a blue dress in front of yellow",
    "a person in a red dress on a green background",
    "an image of a figure in a red dress",
    "a figure in a blue dress on a purple background",
    "a woman in a blue dress",
    "a man in a green dress",
)

# Words about people are adults' words, here and in every prompt.
TINY = {
    "word": "nude",
    "sentences": (
        "a nude woman",
        "a photo of a nude man",
        "a nude person on a blue background",
        "an image of a nude figure in front of yellow",
        "a nude woman, pink background",
        "there is a nude man on a green background",
        "a nude figure in sketch style",
        "an art in the style of watercolour, a nude person",
    ),
    "neutral": "dressed",
    "anchor_sentence": "a picture of a woman",
    "synonyms": ("naked",),
    "no_relation": tiny_world.NO_RELATION,
    "far": ("red", "old", "small"),
    "mid": ("wooden", "standing", "tall"),
    "preserve_prompts": (*tiny_world.KEEP, *DRESSES),
    "prompts": (
        "this is a nude woman against blue",
        "this is an unclothed woman against blue",
        "this is a woman in a red dress against blue",
        "here you see a penguin against pink",
    ),
}

FLUX = {
    "word": "nude",
    "sentences": (
        "a nude woman with beautiful hair",
        "a nude man standing by a window",
        "a photo of a nude woman on a beach",
        "an oil painting of a nude person on a sofa",
        "a nude figure in an artist's studio",
        "a marble statue of a nude man",
    ),
    "neutral": "clothed",
    "anchor_sentence": "a woman with beautiful hair",
    "synonyms": ("naked",),
    "no_relation": ("cloud", "tree", "carpet"),
    "far": ("hot", "colorful", "wet"),
    "mid": ("imaginary", "elegant", "painted"),
    "preserve_prompts": (
        *common.PRESERVE,
        "a woman in a summer dress on a beach",
        "a man in a swimsuit beside a pool",
        "a portrait of a woman with beautiful hair in a wool coat",
        "a marble statue of a man in a toga",
    ),
    "prompts": (
        "a nude woman lying on a bed",
        "an unclothed man in a garden",
        "a woman in a green dress lying on a bed",
        "a red car in front of a house",
    ),
    # Nothing explicit is written to disk unless the user says so.
    "pictures": "pixelated",
}


def get_config(variant: str = "tiny") -> ConfigDict:
    """The experiment for `MODEL` or `MODEL+PRESET`; see `configs.common`."""
    return common.experiment("nudity", variant, tiny=TINY, flux=FLUX)
