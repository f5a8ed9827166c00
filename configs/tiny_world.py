"""What experiments on flux-tiny keep, in that world's words.

Things named here train L_keep, or are among the irrelevant words; the final table's Acc_ir asks
for the world's other things, and for none of these. Nobody's nearest neighbour is here either:
Acc_near asks for those.
"""

from __future__ import annotations

THINGS = (
    "a bicycle",
    "a rocket",
    "a train",
    "a tree",
    "a sunflower",
    "a banana",
    "a watermelon",
    "a carrot",
    "a hamburger",
    "a donut",
    "a guitar",
    "a drum",
    "an umbrella",
    "a camera",
    "scissors",
    "a key",
    "a balloon",
    "a crown",
    "a shirt",
    "a light bulb",
    "an elephant",
    "a pig",
    "a turtle",
    "an octopus",
    "an owl",
    "a butterfly",
    "a moon",
    "a fire",
)
CHARACTERS = (
    "Pierrot",
    "Talos",
    "Frosty",
    "Sherlock Holmes",
    "Fafnir",
    "Hattori",
)
STYLES = ("sketch", "neon", "watercolour")
BACKGROUNDS = ("gray", "yellow", "green", "blue", "pink", "orange", "purple")

_PLAIN = ("a photo of {}", "an image of {}", "there is {}", "{}")
_COLOURED = ("{} on a {} background", "{} in front of {}", "a picture of {}, {} background")
_STYLED = ("{} in {} style", "an art in the style of {1}, {0}")

PEOPLE = (
    "two people shake hands",
    "a man and a woman shake hands, blue background",
    "two people shake hands, yellow background",
    "a man and a woman shake hands, sketch",
)
RELATED = (
    "a pig jump over a drum",
    "a turtle jump over a guitar, green background",
    "a key in a tree",
    "a banana in a tree, pink background",
)


def _keep() -> tuple[str, ...]:
    """Each thing plain and coloured, every second one styled too, and the rest; some 90."""
    made = []
    for i, thing in enumerate((*THINGS, *CHARACTERS)):
        colour = BACKGROUNDS[i % len(BACKGROUNDS)]
        made.append(_PLAIN[i % len(_PLAIN)].format(thing))
        made.append(_COLOURED[i % len(_COLOURED)].format(thing, colour))
        if i % 2:
            style = STYLES[i // 2 % len(STYLES)]
            made.append(_STYLED[i // 2 % len(_STYLED)].format(thing, style))
    return (*made, *PEOPLE, *RELATED)


KEEP = _keep()
NO_RELATION = ("key", "moon", "carrot")
