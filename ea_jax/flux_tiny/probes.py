"""What an erasure on flux-tiny is asked: probes of the concept, its synonyms, its neighbours.

Words, templates and seeds are held out: templates of the `eval` split, synonyms that no training
may use, seeds from a range of their own. As in the paper's Table 6, a concept is asked for by
itself: things, relations and figures in the usual style, styles on any one thing. In a part of its
pictures the erased one is in another style, or beside another object, so that the rest of a prompt
can be asked for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ea_jax.evaluate import metrics
from ea_jax.evaluate.probes import Probe
from ea_jax.flux_tiny import vocabulary, world
from ea_jax.flux_tiny.vocabulary import CONCEPTS, Concept
from ea_jax.flux_tiny.world import Scene

SEEDS = 1_000_000  # first seed of evaluation's pictures; training draws from 2**31 on
_DRAWS = 1000


def probes_for(
    word: str,
    *,
    pictures: int,
    seed: int = 0,
    trained: Sequence[str] = (),
    erased: Sequence[Concept] = (),
) -> list[Probe]:
    """Probes for one erased concept.

    Args:
      word: name of the concept.
      pictures: for each metric; more for that of other concepts where it takes more to ask for
        each of them once, the words of a run together.
      seed: of scenes and wording.
      trained: other concepts that training uses, in any of its prompts; none of them is asked for.
      erased: other concepts that the same run erases; none is asked for, or shown beside this one.
    Returns:
      Probes whose questions are (head, label) pairs of the judge.
    Raises:
      ValueError: the world has no such concept.
    """
    concept = vocabulary.concept(word)
    gone = [concept, *erased]
    # The usual style goes unsaid, but not where it is erased.
    unusual = any(other.name == vocabulary.DEFAULT_STYLE for other in erased)
    rng = np.random.default_rng((seed, 77))
    probes = []
    unasked = {*trained, *(other.name for other in erased)}
    for i in range(pictures):
        # Every fourth picture is in some other style, every fourth has another object beside.
        styled, pair = unusual or i % 4 == 1, i % 4 == 3
        scene = scene_of(concept, rng, erased, styled=styled, pair=pair)
        mine = key(concept)
        rest = scene.labels() - {mine}
        questions = [(metrics.CONCEPT.name, frozenset({mine}))]
        if rest:
            questions.append((metrics.REST.name, rest))
        probes.append(_probe(scene, rng, questions))
        if concept.held_out:
            synonym = concept.held_out[i % len(concept.held_out)]
            scene = scene_of(concept, rng, erased, styled=styled)
            questions = [(metrics.SYNONYMS.name, frozenset({mine}))]
            probes.append(_probe(scene, rng, questions, {word: synonym}))
        if concept.near and concept.near not in unasked:
            near = vocabulary.concept(concept.near)
            questions = [(metrics.NEAREST.name, frozenset({key(near)}))]
            probes.append(_probe(scene_of(near, rng, erased, styled=unusual), rng, questions))
    barred = {concept.name, concept.near, *unasked}
    others = [other for other in CONCEPTS.values() if other.name not in barred]
    order = rng.permutation(len(others))
    count = max(pictures, math.ceil(len(others) / len(gone))) if others else 0
    if erased:
        # Each word asks for the next part of one order.
        turn = sorted(one.name for one in gone).index(concept.name)
        order = np.roll(np.random.default_rng(seed).permutation(len(others)), -turn * count)
    for i in range(count):
        other = others[order[i % len(others)]]
        styled = unusual or concept.name == vocabulary.DEFAULT_STYLE
        scene = scene_of(other, rng, gone, styled=styled)
        probes.append(_probe(scene, rng, [(metrics.OTHERS.name, frozenset({key(other)}))]))
    return [dataclasses.replace(probe, seed=SEEDS + i) for i, probe in enumerate(probes)]


def key(concept: Concept) -> tuple[str, str]:
    """The (head, label) under which the judge reports a concept."""
    head = "object" if concept.kind == "character" else concept.kind
    return head, concept.name


def scene_of(
    concept: Concept,
    rng: np.random.Generator,
    without: Sequence[Concept] = (),
    *,
    styled: bool = False,
    pair: bool = False,
) -> Scene:
    """A scene that shows a concept in the usual style, and none of `without`.

    A style's own shows any one thing. With `styled` the style is any, with `pair` an object stands
    beside another one.

    Raises:
      ValueError: no scene of this kind is without the other concepts.
    """
    for _ in range(_DRAWS):
        scene = _scene_of(concept, rng, styled, pair)
        if not scene.labels() & {key(other) for other in without}:
            return scene
    raise ValueError(
        f"{_DRAWS} scenes of {concept.name!r} all show {' or '.join(w.name for w in without)!r}; "
        "draw them in any style, ask for another concept, or erase fewer words in one run"
    )


def _scene_of(concept: Concept, rng: np.random.Generator, styled: bool, pair: bool) -> Scene:
    pick = lambda names: names[int(rng.integers(len(names)))]  # noqa: E731
    style = pick(vocabulary.STYLE_NAMES) if styled else vocabulary.DEFAULT_STYLE
    if concept.kind == "style":
        style = concept.name
    common: dict[str, Any] = {"style": style, "background": pick(tuple(vocabulary.BACKGROUNDS))}
    if concept.kind == "relation":
        return world.relation_scene(concept.name, rng, **common)
    if concept.kind == "dress":
        return world.mannequin_scene(concept.name, rng, **common)
    if concept.kind == "style":
        return world.thing_scene(pick(vocabulary.THINGS), rng, **common)
    draw = world.pair_scene if pair else world.thing_scene
    return draw(concept.name, rng, **common)


def _probe(
    scene: Scene, rng: np.random.Generator, questions, said: dict[str, str] | None = None
) -> Probe:
    style, rest = ("style", scene.style), metrics.REST.name
    if any(metric != rest and style in asked for metric, asked in questions):
        # The usual style often goes without saying; not where it is the question.
        said = {scene.style: scene.style, **(said or {})}
    prompt = world.describe(scene, rng, split="eval", words=said, framed=True)
    # What the prompt doesn't say can't be asked for.
    words = prompt.replace(",", "").split()
    named = {("background", scene.background)} if scene.background in words else set()
    if scene.style != vocabulary.DEFAULT_STYLE or scene.style in prompt:
        named.add(("style", scene.style))
    kept = []
    for metric, answers in questions:
        stated = frozenset(a for a in answers if a[0] not in ("background", "style") or a in named)
        if stated or metric != rest:
            kept.append((metric, stated or answers))
    return Probe(prompt, 0, tuple(kept))
