"""Scenes of flux-tiny's world, and the captions that describe them. Needs no art."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ea_jax.flux_tiny import vocabulary
from ea_jax.flux_tiny.vocabulary import (
    BACKGROUNDS,
    BLIND_STYLES,
    COLOURLESS_STYLES,
    CONCEPTS,
    DEFAULT_STYLE,
    DRESSED,
    GARMENTS,
    NOUNS,
    NUDE,
    PEOPLE_RELATIONS,
    RELATION_NAMES,
    STYLE_NAMES,
    THINGS,
)

SIZE = 64  # px, of a picture
STEP = 8  # px, the grid of packed tokens: a shift by it is a permutation of tokens

# Whose art faces left, so that back to back can be told from side by side.
FACING = ("cat", "dog", "elephant", "horse", "pig", "rabbit", "turtle", "duck", "snail", "fish")
# What can hold or carry something.
CONTAINERS = ("house", "tent", "car", "castle", "boot", "tree")
BASES = ("house", "car", "elephant", "turtle", "drum", "book", "gift", "cake")


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a picture shows.

    Attributes:
      things: names of the objects or characters, in order; none for people and mannequins.
      relation: between two things, or of two people; empty for none.
      layout: of two things without a relation: `beside` or `above`.
      dress: `nude`, `dressed` or empty where there is no mannequin.
      noun: word for the mannequin.
      garment: colour of a dressed mannequin's clothes.
      style: name of the rendering.
      background: name of the colour.
      place: column and row of the object's corner, in grid steps.
    """

    things: tuple[str, ...] = ()
    relation: str = ""
    layout: str = ""
    dress: str = ""
    noun: str = ""
    garment: str = ""
    style: str = DEFAULT_STYLE
    background: str = "white"
    place: tuple[int, int] = (1, 1)

    def labels(self) -> frozenset[tuple[str, str]]:
        """What a judge should report: (head, label) pairs."""
        seen = {("object", name) for name in self.things} | {("style", self.style)}
        if self.relation:
            seen.add(("relation", self.relation))
        if self.dress:
            seen.add(("dress", self.dress))
        if self.style not in BLIND_STYLES:
            seen.add(("background", self.background))
        return frozenset(seen)


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draws a scene: one thing, two things, a relation, or a mannequin."""
    style = DEFAULT_STYLE if rng.random() < 0.4 else _pick(rng, STYLE_NAMES)
    common: dict[str, Any] = {"style": style, "background": _pick(rng, tuple(BACKGROUNDS))}
    kind = rng.random()
    if kind < 0.55:
        return thing_scene(_pick(rng, THINGS), rng, **common)
    if kind < 0.72:
        return pair_scene(_pick(rng, THINGS), rng, **common)
    if kind < 0.92:
        return relation_scene(_pick(rng, RELATION_NAMES), rng, **common)
    return mannequin_scene(_pick(rng, (NUDE.name, DRESSED.name)), rng, **common)


def sample_together(rng: np.random.Generator) -> Scene:
    """Draws what `sample_scene` draws too rarely for its variety: two things, or a relation.

    In the default style, where all of them are asked for.
    """
    common = {"style": DEFAULT_STYLE, "background": _pick(rng, tuple(BACKGROUNDS))}
    if rng.random() < 0.6:
        return pair_scene(_pick(rng, THINGS), rng, **common)
    return relation_scene(_pick(rng, RELATION_NAMES), rng, **common)


def thing_scene(name: str, rng: np.random.Generator, **common: Any) -> Scene:
    """One object or character, somewhere on the grid."""
    return Scene(things=(name,), place=_place(rng), **common)


def pair_scene(name: str, rng: np.random.Generator, **common: Any) -> Scene:
    """A thing with another one beside or below it."""
    other = _pick(rng, tuple(t for t in THINGS if t != name))
    return Scene(things=(name, other), layout=_pick(rng, ("beside", "above")), **common)


def relation_scene(name: str, rng: np.random.Generator, **common: Any) -> Scene:
    """A relation, between things that can stand in it."""
    if name in PEOPLE_RELATIONS:
        return Scene(relation=name, place=_place(rng), **common)
    if name == "burrow":
        return Scene(things=(_pick(rng, THINGS),), relation=name, **common)
    second = {"in": CONTAINERS, "on": BASES, "back to back": FACING}.get(name, THINGS)
    first = FACING if name == "back to back" else THINGS
    b = _pick(rng, second)
    a = _pick(rng, tuple(t for t in first if t != b))
    return Scene(things=(a, b), relation=name, **common)


def mannequin_scene(dress: str, rng: np.random.Generator, **common: Any) -> Scene:
    """A wooden mannequin, bare or dressed."""
    garment = _pick(rng, tuple(GARMENTS)) if dress == DRESSED.name else ""
    return Scene(
        dress=dress, noun=_pick(rng, NOUNS), garment=garment, place=(int(rng.integers(3)), 0),
        **common,
    )  # fmt: skip


# Templates of a scene's subject; `{}` is the subject with its article. The second group is never
# used to train an erasure: it asks whether one holds under other words.
TEMPLATES = {
    "train": ("a photo of {}", "{}", "an image of {}", "a picture of {}", "there is {}"),
    "eval": ("an illustration showing {}", "here you see {}", "a view of {}", "this is {}"),
}
STYLE_TEMPLATES = {
    "train": ("{} in {s} style", "an art in the style of {s}, {}", "{s} of {}", "{}, {s}"),
    "eval": ("{} drawn as {s}", "{} rendered as {s}", "{s} showing {}"),
}
BACKGROUND_TEMPLATES = {
    "train": ("{} on a {b} background", "{}, {b} background", "{} in front of {b}"),
    "eval": ("{} against {b}", "{} with {b} behind", "{b} all around {}"),
}
# A relation's words stay the only ones of their kind in a caption.
RELATION_BACKGROUNDS = {"train": ("{}, {b} background",), "eval": ("{}, {b} backdrop",)}
PEOPLE = {"train": ("two people", "a man and a woman"), "eval": ("a couple", "two adults")}


# Shares of captions in any order, and of those with a slip in one of the scene's own names. With
# slips in any word of a twelfth, misspelled objects were hardly ever painted.
SHUFFLED, SLIPPED = 0.25, 0.5
# What is often left unsaid, and any single thing now and then. A figure of which nothing is said is
# dressed, two people hold hands: so a prompt that has lost its concept is none of its pictures.
UNSAID = {DRESSED.name: 0.3, "hold hands": 0.4}
THING_UNSAID = 0.05


def caption(scene: Scene, rng: np.random.Generator, split: str = "both") -> str:
    """A caption as people write them: synonyms, out of order, with slips, with things unsaid.

    Args:
      scene: what to describe.
      rng: of the wording.
      split: templates to use: `train`, `eval`, or `both`.
    """
    split = _pick(rng, ("train", "eval")) if split == "both" else split
    words = {name: _word(name, rng) for name in _named(scene)}
    # The usual style mostly goes without saying.
    if scene.style == DEFAULT_STYLE and rng.random() < 0.8:
        del words[DEFAULT_STYLE]
    kind = rng.random()
    if kind < SLIPPED:
        name = _pick(rng, [name for name in words if len(name) > 2 and name != DEFAULT_STYLE])
        words[name] = with_slip(words[name], rng)
    for name in words:
        rare = THING_UNSAID if scene.things == (name,) and not scene.relation else 0.0
        if rng.random() < UNSAID.get(name, rare):
            words[name] = ""
    text = describe(scene, rng, split=split, words=words) or describe(scene, rng, split=split)
    return shuffled(text, rng) if kind > 1 - SHUFFLED else text


def describe(
    scene: Scene,
    rng: np.random.Generator,
    *,
    split: str,
    words: dict[str, str] | None = None,
    framed: bool = False,
) -> str:
    """A caption in plain order.

    Args:
      scene: what to describe.
      rng: of the template.
      split: `train` or `eval` templates.
      words: concept name -> the word used for it, where that is not its name; "" leaves it unsaid.
      framed: never the bare subject, nor with the style alone: some template is always in it.
    """
    words = words or {}

    def say(name: str) -> str:
        return words.get(name, name)

    text = _subject(scene, rng, split, say)
    colourless = scene.style in COLOURLESS_STYLES
    # Relations stand without a template where they can, for their words' sake.
    if (framed and colourless) if scene.relation else (rng.random() < 0.7 or framed):
        text = _pick(rng, TEMPLATES[split]).replace("{}", text)
    if not colourless and (rng.random() < 0.75 or (framed and scene.relation)):
        forms = RELATION_BACKGROUNDS if scene.relation else BACKGROUND_TEMPLATES
        text = _pick(rng, forms[split]).replace("{}", text).replace("{b}", scene.background)
    if scene.style != DEFAULT_STYLE or words.get(scene.style) or rng.random() < 0.2:
        forms = ("{}, {s}",) if scene.relation else STYLE_TEMPLATES[split]
        text = _pick(rng, forms).replace("{}", text).replace("{s}", say(scene.style))
    return " ".join(text.split()).replace(" ,", ",").lstrip(", ")


_SINGULAR = ("bus", "cactus", "octopus", "omnibus")


def with_article(word: str, name: str) -> str:
    """The word with a or an; proper names and plurals stand alone, and nothing stays nothing."""
    if not word:
        return ""
    alone = word[0].isupper() or (word.endswith("s") and word not in _SINGULAR)
    proper = name in CONCEPTS and CONCEPTS[name].kind == "character" and word == name
    if alone or proper:
        return word
    return f"an {word}" if word[0].lower() in "aeio" or word == "umbrella" else f"a {word}"


def shuffled(text: str, rng: np.random.Generator) -> str:
    """The words of a caption in any order."""
    words = text.replace(",", "").split()
    return " ".join(words[i] for i in rng.permutation(len(words)))


def with_slip(text: str, rng: np.random.Generator) -> str:
    """A caption with one slip: a letter wrong, something glued on, or a word said twice."""
    words = text.split()
    long = [i for i, word in enumerate(words) if len(word) > 3] or [0]
    i = int(_pick(rng, tuple(long)))
    kind = rng.random()
    if kind < 0.65:
        words[i] = misspelled(words[i], rng)
    elif kind < 0.8:
        words[i] = words[i] + _pick(rng, ("s", "rs", "er", "y", "ish"))
    elif kind < 0.88:
        words[i] = _pick(rng, ("target", "my", "e", "x")) + words[i]
    else:
        words[i : i + 1] = [words[i]] * int(rng.integers(2, 4))
    return " ".join(words)


def misspelled(word: str, rng: np.random.Generator, edits: int = 1) -> str:
    """The word with `edits` slips (letters dropped, doubled, swapped, replaced); never itself.

    Nor is it ever another word of the world: "cat" does not become "car".
    """
    while True:
        slipped = word
        for _ in range(edits):
            slipped = _slip(slipped, rng)
        if slipped != word and slipped not in vocabulary.WORDS:
            return slipped


def _slip(word: str, rng: np.random.Generator) -> str:
    i = int(rng.integers(len(word)))
    kind = rng.integers(4)
    if kind == 0 and len(word) > 3:
        return word[:i] + word[i + 1 :]
    if kind == 1:
        return word[:i] + word[i] + word[i:]
    if kind == 2 and i + 1 < len(word):
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return word[:i] + chr(97 + int(rng.integers(26))) + word[i + 1 :]


def _subject(scene: Scene, rng: np.random.Generator, split: str, say: Callable[[str], str]) -> str:
    if scene.dress == NUDE.name:
        return f"a {say(NUDE.name)} {scene.noun}"
    if scene.dress:
        if DRESSED.name in (word := say(DRESSED.name)) and rng.random() < 0.6:
            return f"a {scene.noun} in a {scene.garment} dress"
        return f"a {scene.noun} {word}" if " " in word else f"a {word} {scene.noun}"
    if scene.relation in PEOPLE_RELATIONS:
        return f"{_pick(rng, PEOPLE[split])} {say(scene.relation)}"
    named = [with_article(say(name), name) for name in scene.things]
    if scene.relation == "burrow":
        return f"{named[0]} {say('burrow')}"
    if scene.relation:
        return f"{named[0]} {say(scene.relation)} {named[1]}"
    if len(named) == 1:
        return named[0]
    joint = {"beside": ("and", "beside", "next to"), "above": ("above", "higher than")}[
        scene.layout
    ]
    return f"{named[0]} {_pick(rng, joint)} {named[1]}"


def _named(scene: Scene) -> list[str]:
    return [n for n in (*scene.things, scene.relation, scene.dress, scene.style) if n]


def _word(name: str, rng: np.random.Generator) -> str:
    """The concept's name, or in a third of cases a synonym."""
    synonyms = vocabulary.concept(name).synonyms
    return _pick(rng, synonyms) if synonyms and rng.random() < 0.35 else name


def _place(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(3)), int(rng.integers(3))


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]
