"""Sentences for a FLUX that was trained on the world, from `templates.txt` and `preserve.txt`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from ea_jax.concepts import articles, forms, lists, sentences
from ea_jax.concepts.lexicon import Phrases

COUNT = 16
_MARKS = ("shown", "near", "neutral", "anchor")
# The first that is free stands in a grid as something else.
_OTHERS = ("a red car in front of a house", "a bowl of fruit on a table", "a mountain in the snow")


class Templates(NamedTuple):
    """What `templates.txt` holds for a kind."""

    sentences: tuple[str, ...]
    shown: tuple[str, ...]
    near: tuple[str, ...]
    neutral: tuple[str, ...]
    anchor: tuple[str, ...]


class FluxPhrases:
    """The phrasebook of the world that FLUX knows."""

    def around(self, word: str, kind: str, *, avoid: Sequence[str]) -> Phrases:
        """Sentences around a word; see `lexicon.Phrasebook`."""
        found = templates()[section(word, kind)]
        barred = forms.AnyOf((word, *avoid))
        texts = [text for text in found.sentences if _is_free(text, barred)]
        neutral = next((one for one in found.neutral if _is_free(one, barred)), found.neutral[-1])
        if _is_told_of_people(word, kind) and articles.is_participle(word):
            neutral = articles.participle(neutral)
        if kind == "place" and articles.before(word, kind) == "":
            neutral = f"a {neutral}"
        anchor = next((one for one in found.anchor if _is_free(one, barred)), found.anchor[-1])
        return Phrases(tuple(filled(text, word, kind) for text in texts[:COUNT]), neutral, anchor)

    def alone(self, word: str, kind: str, *, avoid: Sequence[str]) -> tuple[str, ...]:
        """The word by itself."""
        del kind, avoid
        return (word,)

    def preserve(self, avoid: Sequence[str]) -> tuple[str, ...]:
        """The lines of `preserve.txt` that hold none of `avoid`."""
        barred = forms.AnyOf(avoid)
        return tuple(text for text in lists.lines("preserve.txt") if _is_free(text, barred))

    def shown(self, word: str, kind: str, *, synonym: str | None, near: str | None) -> list[str]:
        """The word, a synonym, a neighbour, and something else, in templates of their own."""
        found = templates()[section(word, kind)]
        (template,) = found.shown
        names = [name for name in (word, synonym) if name]
        barred = forms.AnyOf(names)
        names += [near or next(one for one in found.near if _is_free(one, barred))]
        if _is_told_of_people(word, kind) and not near and articles.is_participle(word):
            names[-1] = articles.participle(names[-1])
        rows = [filled(template, name, kind) for name in names]
        others = [text for text in _OTHERS if _is_free(text, forms.AnyOf(names))]
        return list(dict.fromkeys([*rows, *others[:1]]))


def section(word: str, kind: str) -> str:
    """The section of `templates.txt` for a word."""
    first, *_, last = [*word.lower().split(), *word.lower().split()]
    behind = articles.listed("prepositions")
    if kind == "relation":
        for group in ("inside", "among"):
            if first in articles.listed(group):
                return f"relation: {group}"
        return "relation: things" if last in behind else "relation: people"
    if kind == "state":
        of = "things" if articles.of_things(word) else "people"
        return (
            f"state: {of} behind" if first in behind | articles.listed("behind") else f"state: {of}"
        )
    return kind


def _is_told_of_people(word: str, kind: str) -> bool:
    return section(word, kind) == "relation: people"


def filled(template: str, word: str, kind: str) -> str:
    """A template with the word in it: {a} with its article, {} alone."""
    if "{a}" in template:
        return template.replace("{a}", articles.with_article(word, kind))
    return sentences.fill(template, word)


@functools.cache
def templates() -> dict[str, Templates]:
    """All of `templates.txt`, by kind."""
    return {name: _sorted(found) for name, found in lists.sections("templates.txt").items()}


def _sorted(lines: Sequence[str]) -> Templates:
    marked: dict[str, list[str]] = {mark: [] for mark in ("", *_MARKS)}
    for line in lines:
        mark, colon, rest = line.partition(": ")
        known = colon and mark in marked
        marked[mark if known else ""].append(rest if known else line)
    return Templates(*(tuple(marked[mark]) for mark in ("", *_MARKS)))


def _is_free(text: str, words: forms.AnyOf) -> bool:
    return words.first(text.replace("{a}", "").replace("{}", "")) is None
