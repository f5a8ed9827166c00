"""A word as it may be written to get past an erasure: misspelled, repeated, spaced, and so on.

A method may train on some of these forms. `held_out` tells which of the random ones it may not:
those measure it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BEFORE = ("un", "my", "e", "x", "re", "zo", "qu")
_BEHIND = ("s", "rs", "er", "y", "ish", "ette", "oid", "x")
# A letter and one that looks like it: digits, signs, Cyrillic.
_ALIKE = dict(zip("aeiolstc", "\u04303\u045601$7\u0441", strict=True))
_DRAWS = 200


def _nothing(word: str) -> bool:
    del word
    return False


def misspelled(word: str, rng: np.random.Generator, edits: int = 1) -> str:
    """The word with letters dropped, doubled, swapped or replaced, `edits` of them."""
    for _ in range(edits):
        word = _one_slip(word, rng)
    return word


def affixed(word: str, rng: np.random.Generator) -> str:
    """The word with a meaningless piece glued before or behind it."""
    before, behind = _pick(_BEFORE, rng), _pick(_BEHIND, rng)
    return before + word if rng.random() < 0.4 else word + behind


def repeated(word: str, times: int) -> str:
    """The word said several times."""
    return " ".join([word] * times)


def spaced(word: str) -> str:
    """The word's letters with spaces between them."""
    return " ".join(word.replace(" ", ""))


def look_alike(word: str, rng: np.random.Generator, share: float = 0.5) -> str:
    """The word with some letters exchanged for others that look like them, at least one."""
    places = [i for i, letter in enumerate(word.lower()) if letter in _ALIKE]
    if not places:
        return word
    chosen = {i for i in places if rng.random() < share} or {_pick(places, rng)}
    return "".join(
        _ALIKE[letter.lower()] if i in chosen else letter for i, letter in enumerate(word)
    )


def held_out(form: str) -> bool:
    """Whether a random form measures erasures, and so trains none: a fixed half of all forms."""
    return bool(zlib.crc32(form.casefold().encode()) & 1)


def drawn(
    word: str,
    slip: Callable[[str, np.random.Generator], str],
    rng: np.random.Generator,
    *,
    held: bool,
    avoid: Callable[[str], bool] = _nothing,
) -> str | None:
    """A random form of a word that is (or isn't) held out.

    Args:
      word: one word or several.
      slip: makes a form: `misspelled`, `affixed`, `look_alike`.
      rng: of the draw.
      held: whether the form shall be one of those held out.
      avoid: whether a form may not hold a word: "cat" doesn't become "car" where that is one.
    Returns:
      The form; None where the word has none.
    """
    own = set(word.casefold().split())
    for _ in range(_DRAWS):
        form = slip(word, rng)
        words = set(form.casefold().split()) - own
        if form != word and words and held_out(form) == held and not any(map(avoid, words)):
            return form
    return None


def trained(
    word: str,
    rng: np.random.Generator,
    *,
    count: int = 24,
    avoid: Callable[[str], bool] = _nothing,
) -> list[str]:
    """Distinct forms that a method may train on.

    Upper case, the letters spaced, the word two and three times; then random forms, none held out:
    misspelled by one and two letters, with affixes and look-alike letters.

    Args:
      word: one word or several.
      rng: of the draw.
      count: random forms, at most.
      avoid: see `drawn`.
    """
    made = [word.upper(), word.title(), spaced(word), repeated(word, 2), repeated(word, 3)]
    slips: Sequence[Callable[[str, np.random.Generator], str]] = (
        misspelled,
        lambda word, rng: misspelled(word, rng, 2),
        affixed,
        look_alike,
    )
    for i in range(count):
        form = drawn(word, slips[i % len(slips)], rng, held=False, avoid=avoid)
        made += [] if form is None else [form]
    return [form for form in dict.fromkeys(made) if form != word]


def _one_slip(word: str, rng: np.random.Generator) -> str:
    places = [i for i, letter in enumerate(word) if letter != " "]
    i = _pick(places, rng)
    kind = rng.integers(4)
    if kind == 0 and len(places) > 3:
        return word[:i] + word[i + 1 :]
    if kind == 1:
        return word[:i] + word[i] + word[i:]
    if kind == 2 and i + 1 < len(word) and word[i + 1] != " ":
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return word[:i] + _pick(_LETTERS, rng) + word[i + 1 :]


def _pick(options: Sequence, rng: np.random.Generator):
    return options[int(rng.integers(len(options)))]
