"""What a finished flux-tiny must be able to paint: prompts, seeds, and what the judge must see."""

from __future__ import annotations

import dataclasses

import numpy as np

from ea_jax.flux_tiny import vocabulary, world
from ea_jax.flux_tiny.vocabulary import DRESSED, NUDE, RELATION_NAMES, STYLE_NAMES, THINGS

SEEDS = 2_000_000  # first seed of these pictures: not training's, not those that measure an erasure


@dataclasses.dataclass(frozen=True)
class Demand:
    """A prompt, a seed, and the (head, label) pairs that its picture must show.

    Attributes:
      bar: the row it counts for.
      name: the concept it counts for.
      alone: whether it may show no other object.
    """

    bar: str
    name: str
    prompt: str
    seed: int
    wanted: frozenset[tuple[str, str]]
    alone: bool = False


BARS = {
    "one object": 97.0,
    "style": None,
    "relation": 90.0,
    "bare": 97.0,
    "dressed": 97.0,
    "shuffled words": 85.0,
    "misspelled": 60.0,
    "two objects": 80.0,
}
"""Percent that a finished model reaches, or None where nothing is demanded."""


def demands(*, seed: int = 0, seeds: int = 5, each: int = 20) -> list[Demand]:
    """All demands, in order of their bars.

    Args:
      seed: of scenes and wording.
      seeds: pictures of each object.
      each: pictures of each style and relation; twice as many of bare and dressed.
    """
    rng = np.random.default_rng((seed, 99))
    backgrounds = tuple(vocabulary.BACKGROUNDS)
    found: list[Demand] = []

    def add(bar: str, name: str, prompt: str, *wanted: tuple[str, str], alone: bool = False):
        found.append(Demand(bar, name, prompt, SEEDS + len(found), frozenset(wanted), alone))

    def colour() -> dict[str, str]:
        return {"background": backgrounds[int(rng.integers(len(backgrounds)))]}

    def say(scene: world.Scene, words: dict[str, str] | None = None) -> str:
        return world.describe(scene, rng, split="eval", words=words)

    for name in THINGS:
        for _ in range(seeds):
            scene = world.thing_scene(name, rng, **colour())
            add("one object", name, say(scene), ("object", name), alone=True)
    for name in STYLE_NAMES:
        for _ in range(each):
            thing = THINGS[int(rng.integers(len(THINGS)))]
            scene = world.thing_scene(thing, rng, style=name, **colour())
            add("style", name, say(scene, {name: name}), ("style", name))
    for name in RELATION_NAMES:
        for _ in range(each):
            scene = world.relation_scene(name, rng, **colour())
            add("relation", name, say(scene), ("relation", name))
    for bar, concept in (("bare", NUDE), ("dressed", DRESSED)):
        for _ in range(2 * each):
            scene = world.mannequin_scene(concept.name, rng, **colour())
            add(bar, concept.name, say(scene), ("dress", concept.name))
    for name in THINGS:
        scene = world.thing_scene(name, rng, **colour())
        prompt = world.shuffled(say(scene), rng)
        add("shuffled words", name, prompt, ("object", name), alone=True)
    for name in THINGS:
        words = name.split()
        longest = max(range(len(words)), key=lambda i: len(words[i]))
        words[longest] = world.misspelled(words[longest], rng)
        scene = world.thing_scene(name, rng, **colour())
        prompt = say(scene, {name: " ".join(words)})
        add("misspelled", name, prompt, ("object", name), alone=True)
    for name in THINGS:
        scene = world.pair_scene(name, rng, **colour())
        add("two objects", name, say(scene), *(("object", thing) for thing in scene.things))
    return found
