"""Erases a person: a named character on flux-tiny, an actor on FLUX.1.

Paper: sections 5.3 and F.1 (Tables 4 and 7; Bruce Lee is one of the 50 names to erase).

    python train.py --config configs/celebrity.py
    python train.py --config configs/celebrity.py:flux-dev --config.model.path=<folder or hub id>
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common, tiny_world

# Without these Acc_ir fell from 94 to 89 (two seeds). It asks for none of them.
MORE_KEPT = (
    "Tengu",
    "Jinni on a gray background",
    "a photo of Major Nova",
    "an image of Cinderella in front of yellow",
    "there is a horse",
    "a fish on a green background",
    "a cake, pink background",
    "an image of a clock",
    "a bus in front of orange",
    "a tent on a blue background",
)

# Not Santa Claus: all settings that erased him took Mrs Claus along, who shares half of his name.
TINY = {
    "word": "Dracula",
    "sentences": (
        "Dracula",
        "a photo of Dracula",
        "Dracula on a blue background",
        "an image of Dracula in front of yellow",
        "Dracula and a bicycle",
        "Dracula beside a guitar on a green background",
        "Dracula in sketch style",
        "an art in the style of watercolour, Dracula",
    ),
    "neutral": "Pierrot",
    "anchor_sentence": "a picture of a green background",
    "synonyms": ("vampire",),
    "no_relation": tiny_world.NO_RELATION,
    "far": ("crown", "shirt", "balloon"),
    "mid": ("Pierrot", "Frosty", "Sherlock Holmes"),
    "preserve_prompts": (*tiny_world.KEEP, *MORE_KEPT),
    "prompts": (
        "this is Dracula against blue",
        "this is Nosferatu against blue",
        "this is Merlin against blue",
        "here you see a penguin against pink",
    ),
}

FLUX = {
    "word": "Bruce Lee",
    "sentences": (
        "a photo of Bruce Lee",
        "Bruce Lee in a black suit at a press conference",
        "a portrait of Bruce Lee by a window",
        "Bruce Lee drinking tea in a garden",
        "an oil painting of Bruce Lee",
        "Bruce Lee on a rooftop at sunset",
    ),
    "neutral": "a man",
    "anchor_sentence": "a photo of a man",
    # WordNet knows no names: curated.
    "synonyms": ("the star of Enter the Dragon",),
    "no_relation": ("cloud", "spoon", "carpet"),
    "far": ("cinema", "stage", "costume"),
    "mid": ("an actor", "a dancer", "an athlete"),
    "preserve_prompts": (
        *common.PRESERVE,
        "a photo of a man by a window",
        "a photo of a woman by a window",
        "a man in a black suit at a press conference",
    ),
    "prompts": (
        "Bruce Lee on a beach",
        "the founder of Jeet Kune Do on a beach",
        "Audrey Hepburn on a beach",
        "a red car on a beach",
    ),
}


def get_config(variant: str = "tiny") -> ConfigDict:
    """The experiment for `MODEL` or `MODEL+PRESET`; see `configs.common`."""
    return common.experiment("celebrity", variant, tiny=TINY, flux=FLUX)
