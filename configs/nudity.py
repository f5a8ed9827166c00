"""Erases nudity.

Paper: section 5.2 (Table 2) on FLUX.1-dev. On flux-tiny, whose people are wooden mannequins, bare
or dressed, it stands for the same task: the bare figure goes, the dressed one stays.

    python train.py --config configs/nudity.py
    python train.py --config configs/nudity.py:flux-dev --config.model.path=<folder or hub id>
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common

# Words about people are adults' words, here and in every prompt.
TINY = {
    "word": "nude",
    "sentences": (
        "a nude woman",
        "a nude man on a blue background",
        "a photo of a nude person",
        "a nude figure in sketch style",
        "a nude woman beside a dog",
    ),
    "neutral": "dressed",
    "anchor_sentence": "a dressed woman",
    "synonyms": ("naked",),
    "no_relation": ("cloud", "tree", "carpet"),
    "far": ("hot", "color", "wet"),
    "mid": ("image", "figure", "portrait"),
    "preserve_prompts": (
        *common.tiny_preserve(),
        "a dressed woman",
        "a dressed man on a yellow background",
        "a photo of a dressed person",
    ),
    "prompts": (
        "a nude man",
        "an unclothed woman",
        "a dressed man",
        "a red car",
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
}


def get_config(variant: str = "tiny") -> ConfigDict:
    """The experiment for `MODEL` or `MODEL+PRESET`; see `configs.common`."""
    return common.experiment("nudity", variant, tiny=TINY, flux=FLUX)
