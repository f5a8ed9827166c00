"""Whether a text holds a word in any of its forms: nudes, soccer-ball, kissing, cat's.

Wherever words are compared it is done here. Where a word stands, exactly as it is, `spans` tells.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence

import regex

from ea_jax.concepts import spans

_WORD = regex.compile(r"(?:[^\W_]|\p{M})+(?:'(?:[^\W_]|\p{M})+)*")
_JOINT = regex.compile(r"(?<=\w)(?:\p{Pd}|_)(?=\w)")
# What a phrase may be made of to have other forms; "C++" has none.
_PLAIN = regex.compile(r"(?:[\w\p{M}\s']|\p{Pd})+")
_ACCENTS = regex.compile(r"(\p{Latin})\p{Mn}+")
_HALF = 3  # letters of half a word, at least: "to" and "get" are words of their own
Words = tuple[str, ...]


def mentions(text: str, word: str) -> bool:
    """Whether `text` holds `word`, one word or several, in any form.

    English inflections (nudes, kissed, held hands), possessives, and whatever `spans.occurrences`
    finds count as the word; hyphen, underscore and space are one, and may be missing (soccerball).
    A word that is itself a participle is taken as it is: dressed isn't dress, nor painting paint.
    A derived word is another: nudity isn't nude, undressed isn't dressed.

    Raises:
      ValueError: an empty word.
    """
    if spans.occurrences(text, word):
        return True
    return any(
        _holds(read, wanted) or _holds_apart(read, wanted)
        for read in _readings(text)
        for wanted in _wanted(word)
    )


class AnyOf:
    """Many words at once: says what `mentions` says of each of them, in one pass over a text.

    Args:
      words: one word or several each, none of them empty.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._single: dict[str, str] = {}
        self._phrases: dict[str, list[str]] = {}
        self._rest: list[str] = []
        for word in dict.fromkeys(words):
            # Neither emoji nor words in a script without spaces are found by their borders.
            if not word.isascii() or not _wanted(word):
                self._rest.append(word)
            for wanted in _wanted(word):
                for base in {wanted[0], *_bases(wanted[0])}:
                    if len(wanted) == 1:
                        self._single.setdefault(base, word)
                    else:
                        self._phrases.setdefault(base, []).append(word)

    def first(self, text: str) -> str | None:
        """One of the words that the text holds in some form; None if it holds none."""
        for read in _readings(text):
            pairs = [
                one + other
                for one, other in itertools.pairwise(read)
                if min(len(one), len(other)) >= _HALF
            ]
            for found in (*read, *pairs):
                for key in (found, *_lemmas(found)):
                    if key in self._single:
                        return self._single[key]
                    for word in self._phrases.get(key, ()):
                        if mentions(text, word):
                            return word
        rest = (word for word in self._rest if not text.isascii() or not _wanted(word))
        return next((word for word in rest if mentions(text, word)), None)


def same(one: str, other: str) -> bool:
    """Whether two words, or phrases, are forms of one.

    Raises:
      ValueError: an empty one.
    """
    return any(
        spans.occurrences(a, b) == [(0, len(a))]
        or any(
            len(read) == len(wanted) and _holds(read, wanted)
            for read in _readings(a)
            for wanted in _wanted(b)
        )
        for a, b in ((one.strip(), other), (other.strip(), one))
    )


def heads(word: str) -> list[str]:
    """A word, and what an English dictionary says that it is a form of."""
    return [word, *sorted(_lemmas(word) - {word})]


def key(text: str) -> Words:
    """Equal for prompts that differ only in forms of words, case, width, spacing or punctuation."""
    first = next(iter(_readings(text)))
    return tuple(min(_lemmas(word), default=word) for word in first) or (text,)


def _holds(read: Sequence[str], wanted: Words) -> bool:
    starts = range(len(read) - len(wanted) + 1)
    return any(all(map(_is_form, read[at : at + len(wanted)], wanted)) for at in starts)


def _holds_apart(read: Sequence[str], wanted: Words) -> bool:
    """Whether two neighbours are the two halves of one wanted word: "hand guns", of handgun."""
    joined = "".join(wanted[:1])
    return len(wanted) == 1 and any(
        min(len(one), len(other)) >= _HALF and _is_form(one + other, joined)
        for one, other in itertools.pairwise(read)
    )


@functools.lru_cache(maxsize=4096)
def _readings(text: str) -> Sequence[Words]:
    """A text's words: hyphens as spaces; then, where there are any, as if they weren't there."""
    folded = _plain(text)
    return tuple(
        dict.fromkeys(
            tuple(word.removesuffix("'s") for word in _WORD.findall(_JOINT.sub(joint, folded)))
            for joint in (" ", "")
        )
    )


@functools.lru_cache(maxsize=4096)
def _wanted(word: str) -> Sequence[Words]:
    """The words to look for one after another: a phrase's own, or all joined to one."""
    folded = _plain(word)
    parts = _readings(word)[0]
    if not parts or not _PLAIN.fullmatch(folded):
        return ()
    return tuple(dict.fromkeys([parts, ("".join(parts),)]))


def _plain(text: str) -> str:
    """A text as words are compared: without case, width, and accents on Latin letters."""
    folded = unicodedata.normalize("NFD", spans.fold(text)[0].replace("\u2019", "'"))
    return unicodedata.normalize("NFC", _ACCENTS.sub(r"\1", folded))


@functools.lru_cache(maxsize=16384)
def _is_form(found: str, word: str) -> bool:
    return found == word or not {found, *_lemmas(found)}.isdisjoint(_bases(word))


def _bases(word: str) -> Words:
    """What a wanted word is a form of: itself if a dictionary lists it as a word of its own."""
    known = _dictionary(word)
    listed = {lemma for lemmas in known.values() for lemma in lemmas}
    if not listed or word in listed:
        return (word,)
    # A participle that is no noun is mostly an adjective: "dressed", which is far from "dress".
    of_verb = known.get("VERB", ()) if word.endswith("ing") else ()
    return (word, *known.get("NOUN", ()), *of_verb)


@functools.lru_cache(maxsize=16384)
def _lemmas(word: str) -> frozenset[str]:
    """All that an English word may be a form of; itself too, where it is a word of its own."""
    known = _dictionary(word)
    # Names and rare words are inflected by rule.
    found = known or _dictionary(word, listed=False)
    lemmas = {lemma for lemmas in found.values() for lemma in lemmas}
    # A plural that the rules read otherwise: selfies, of selfie.
    plain = [word.removesuffix(end) for end in ("s", "es") if word.endswith(end)]
    return frozenset(lemmas | {stem for stem in plain if len(stem) > 2})


def _dictionary(word: str, *, listed: bool = True) -> dict[str, Words]:
    """An English word's lemmas by part of speech: those that are listed, or those by rule.

    The library is imported here, since it reads its lists (0.2 s), and spaCy where there is one.
    """
    if not re.fullmatch("[a-z']{3,}", word):
        return {}
    import lemminflect

    if listed:
        return lemminflect.getAllLemmas(word)
    rules = lemminflect.getAllLemmasOOV
    return rules(word, "NOUN") | rules(word, "VERB")


def folded(word: str) -> str:
    """A word or words in lower case, hyphens and underscores as single spaces."""
    return " ".join(word.casefold().replace("-", " ").replace("_", " ").split())
