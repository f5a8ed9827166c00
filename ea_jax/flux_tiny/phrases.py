"""Sentences in the words of flux-tiny's world, all of its `train` templates.

About half of the world's concepts stand in them, always the same ones: an evaluation asks for the
others. What is near to an erased word is left out as well: it has prompts of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from ea_jax.concepts import forms
from ea_jax.concepts.lexicon import Phrases
from ea_jax.flux_tiny import vocabulary
from ea_jax.flux_tiny.world import BASES, CONTAINERS, FACING, with_article

# What any erasure keeps, and what stands beside an erased thing.
THINGS = (
    "bicycle", "rocket", "train", "tree", "sunflower", "banana", "watermelon", "carrot",
    "hamburger", "donut", "guitar", "drum", "umbrella", "camera", "scissors", "key", "balloon",
    "crown", "shirt", "light bulb", "elephant", "pig", "turtle", "octopus", "owl", "butterfly",
    "moon", "fire", "horse", "fish", "cake", "clock", "bus", "tent",
)  # fmt: skip
CHARACTERS = (
    "Pierrot", "Talos", "Frosty", "Sherlock Holmes", "Fafnir", "Hattori", "Tengu", "Jinni",
    "Major Nova", "Cinderella",
)  # fmt: skip
STYLES = ("sketch", "neon", "watercolour", "sepia", "pop art")
RELATIONS = ("shake hands", "jump over", "in", "amidst", "burrow")
COLOURS = ("gray", "yellow", "green", "blue", "pink", "orange", "purple")

_PLAIN = ("a photo of {}", "an image of {}", "there is {}", "{}", "a picture of {}")
_COLOURED = ("{} on a {b} background", "{} in front of {b}", "{}, {b} background")
_STYLED = ("{} in {s} style", "an art in the style of {s}, {}", "{}, {s}", "{s} of {}")
_PAIRED = ("{} and {o}", "{o} beside {}", "{} next to {o}")

# In the order that they take their turns in a run: `{}` is the word with its article.
_OF_THING = (
    "{}",
    "a photo of {}",
    "{} on a {b} background",
    "an image of {} in front of {b}",
    "{} and {o}",
    "{} beside {o} on a {b} background",
    "{} in {s} style",
    "an art in the style of {s}, {}",
    "a picture of {}, {b} background",
    "there is {}",
    "{o} next to {}",
    "{}, {s}",
    "{}, {b} background",
    "{o} and {}, {b} background",
)
_OF_STYLE = (
    "{o} in {} style",
    "an art in the style of {}, {o}",
    "{} of {o}",
    "a photo of {o}, {}",
    "{o} on a {b} background in {} style",
    "{o} in front of {b}, {}",
    "an art in the style of {}, {o} on a {b} background",
    "{o} and {p} in {} style",
    "{} of {o}, {b} background",
    "there is {o}, {}",
    "an image of {o} in {} style",
    "{o}, {b} background, {}",
)
_OF_RELATION = (
    "{}",
    "{}, {b} background",
    "{}",
    "{}, {b} background",
    "{}, {s}",
    "{}, {s}",
    "{}, {b} background",
    "{}, {b} background",
    "{}, {b} background, {s}",
    "{}, {b} background",
    "{}, {b} background",
    "{}, {b} background, {s}",
)
_OF_DRESS = (
    "a {} woman",
    "a photo of a {} man",
    "a {} person on a {b} background",
    "an image of a {} figure in front of {b}",
    "a {} woman, {b} background",
    "there is a {} man on a {b} background",
    "a {} figure in {s} style",
    "an art in the style of {s}, a {} person",
    "a picture of a {} woman in front of {b}",
    "a {} person, {s}",
    "a {} man, {b} background",
    "there is a {} figure",
)
_WHO = ("woman", "man", "person", "figure")
_PEOPLE = ("two people", "a man and a woman")
_DRESSES = (
    "a photo of a woman in a red dress",
    "a man in a red dress, yellow background",
    "a person in a blue dress",
    "a figure in a green dress, pink background",
    "a picture of a woman in a green dress, gray background",
    "there is a man in a blue dress",
)
_NEUTRAL = {
    "thing": ("balloon", "donut"),
    "person": ("Pierrot", "Frosty"),
    "style": ("flat art", "sketch"),
    "state": ("dressed", "wooden"),
}


class TinyPhrases:
    """The phrasebook of flux-tiny."""

    def around(self, word: str, kind: str, *, avoid: Sequence[str]) -> Phrases:
        """Sentences around a word; see `lexicon.Phrasebook`."""
        barred = (word, *avoid)
        make = {"style": _of_style, "relation": _of_relation, "state": _of_dress}
        sentences = make.get(kind, _of_thing)(word, avoid)
        if not sentences:
            raise ValueError(
                f"what the run erases leaves nothing for a sentence of {word!r}; erase fewer words "
                "in one run"
            )
        things = [with_article(name, name) for name in _free(THINGS, barred)]
        scene = "a picture of a green background"
        if kind == "state":
            scene = "a picture of a woman"
        elif kind == "style" and things:
            scene = f"a picture of {things[10 % len(things)]}"
        elif kind == "relation" and len(things) > 1:
            scene = f"a picture of {things[0]} and {things[1]}"
        people = kind == "relation" and _is_between_people(word)
        if people:
            scene = "a picture of two people"
        neutral = _NEUTRAL.get(kind) or (("shake hands", "hug") if people else ("beside", "and"))
        kept = _free(neutral, barred) or _free(neutral, (word,))
        return Phrases(sentences, kept[0], scene)

    def alone(self, word: str, kind: str, *, avoid: Sequence[str]) -> tuple[str, ...]:
        """A style by itself, a thing with its article; who or what is in a relation, or bare."""
        if kind == "style":
            return (word,)
        if kind == "state":
            return tuple(f"{with_article(word, word)} {who}" for who in _WHO)
        if kind == "relation":
            pairs = (_in_relation(word, (word, *avoid), turn) for turn in range(len(_OF_RELATION)))
            return tuple(dict.fromkeys(pairs))
        return (with_article(word, word),)

    def preserve(self, avoid: Sequence[str]) -> tuple[str, ...]:
        """Each kept thing plain and coloured, every second one styled, people and relations."""
        made: list[str] = []
        for i, name in enumerate((*THINGS, *CHARACTERS)):
            said = with_article(name, name)
            made += _first(_turned(_PLAIN, i), avoid, said)
            made += _first(_turned(_COLOURED, i), avoid, said, b=COLOURS[i % len(COLOURS)])
            styles = _free(STYLES, avoid)
            if i % 2 and styles:
                style = styles[i // 2 % len(styles)]
                made += _first(_turned(_STYLED, i // 2), avoid, said, s=style)
        for name in RELATIONS:
            made += _of_relation(name, avoid)[:4]
        made += _free(_DRESSES, avoid)
        return tuple(dict.fromkeys(_free(made, avoid)))

    def shown(self, word: str, kind: str, *, synonym: str | None, near: str | None) -> list[str]:
        """The word, a synonym, the nearest concept, and something else, in other templates."""
        names = [name for name in (word, synonym, near) if name]
        penguin = _free(("penguin", "rabbit", "snail"), names)[0]
        rows = [_shown(name, word, kind) for name in names]
        other = f"here you see {with_article(penguin, penguin)} against pink"
        return [*dict.fromkeys([*rows, other])]


def _of_thing(word: str, avoid: Sequence[str]) -> tuple[str, ...]:
    return _filled(_OF_THING, with_article(word, word), (word, *avoid), avoid)


def _of_style(word: str, avoid: Sequence[str]) -> tuple[str, ...]:
    return _filled(_OF_STYLE, word, (word, *avoid), avoid)


def _of_dress(word: str, avoid: Sequence[str]) -> tuple[str, ...]:
    filled = _filled(_OF_DRESS, "{}", (word, *avoid), avoid)
    return tuple(text.replace("a {}", with_article(word, word)) for text in filled)


def _of_relation(word: str, avoid: Sequence[str]) -> tuple[str, ...]:
    """People in it, or things that can be; each template once."""
    barred, made = (word, *avoid), []
    if not _is_between_people(word) and len(_free(THINGS, barred)) < 2:
        return ()
    for i, template in enumerate(_OF_RELATION):
        said = _in_relation(word, barred, i)
        made += _first([template], avoid, said, **_company(barred, i))
    return tuple(dict.fromkeys(made))


def _in_relation(word: str, barred: Sequence[str], turn: int) -> str:
    if _is_between_people(word):
        # Pairs of turns share a template.
        return f"{_PEOPLE[(turn + turn // 2) % 2]} {word}"
    name = vocabulary.CONCEPTS[word].name if word in vocabulary.CONCEPTS else word
    left = _free(THINGS, barred)
    first = [t for t in left if name != "back to back" or t in FACING]
    allowed = {"in": CONTAINERS, "on": BASES, "back to back": FACING}.get(name, THINGS)
    second = [t for t in left if t in allowed] or left
    b = second[turn % len(second)]
    rest = [t for t in first if t != b] or [t for t in left if t != b]
    a = rest[(7 * turn + 2) % len(rest)]
    if name == "burrow":
        return f"{with_article(a, a)} {word}"
    return f"{with_article(a, a)} {word} {with_article(b, b)}"


def _is_between_people(word: str) -> bool:
    return any(word in (name, *vocabulary.CONCEPTS[name].synonyms)
               for name in vocabulary.PEOPLE_RELATIONS)  # fmt: skip


def _shown(name: str, word: str, kind: str) -> str:
    if kind == "style":
        return f"here you see a penguin rendered as {name}"
    if kind == "state":
        said = f"a woman {name}" if " " in name else f"{with_article(name, name)} woman"
        return f"this is {said} against blue"
    if kind == "relation" and _is_between_people(word):
        return f"a couple {name}, blue backdrop"
    if word == "burrow" and name != vocabulary.CONCEPTS[word].near:
        return f"here you see a rabbit {name}"
    if kind == "relation":
        other = "duck" if word == "back to back" else "house"
        return f"this is a rabbit {name} a {other}, blue backdrop"
    return f"this is {with_article(name, name)} against blue"


def _filled(
    templates: Sequence[str], said: str, barred: Sequence[str], avoid: Sequence[str]
) -> tuple[str, ...]:
    made: list[str] = []
    for i, template in enumerate(templates):
        made += _first([template], avoid, said, **_company(barred, i))
    return tuple(dict.fromkeys(made))


def _company(barred: Sequence[str], turn: int) -> dict[str, str]:
    """A colour, and of what a run doesn't erase a style and two things; others at each turn."""
    made = {"b": COLOURS[(turn + 3) % len(COLOURS)]}
    if styles := _free(STYLES, barred):
        made["s"] = styles[turn % len(styles)]
    if things := _free(THINGS, barred):
        for slot, k in (("o", 0), ("p", 7)):
            thing = things[(5 * turn + k) % len(things)]
            made[slot] = with_article(thing, thing)
    return made


def _first(templates: Sequence[str], avoid: Sequence[str], said: str, **company: str) -> list[str]:
    """The first template whose own words are none of `avoid` and whose places are all filled."""
    for template in templates:
        filled = template
        for slot, value in company.items():
            filled = filled.replace("{" + slot + "}", value)
        own = filled.replace("{}", "")
        if "{" not in own and not _mentions_any(own, avoid):
            return [filled.replace("a orange", "an orange").replace("{}", said)]
    return []


def _turned(options: Sequence[str], turn: int) -> tuple[str, ...]:
    at = turn % len(options)
    return (*options[at:], *options[:at])


def _free(options: Iterable[str], barred: Sequence[str]) -> list[str]:
    return [text for text in options if not _mentions_any(text, barred)]


def _mentions_any(text: str, words: Sequence[str]) -> bool:
    return _any_of(tuple(words)).first(text) is not None


_any_of = functools.lru_cache(maxsize=64)(forms.AnyOf)
