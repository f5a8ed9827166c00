"""Nudity is erased from pictures of adults: no text of such a run may have a word for a minor.

Both word lists are files beside this one, `nudity.txt` and `minors.txt`.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence

from ea_jax.concepts import forms, lists, spans

# Letters of other alphabets that look like ours, and digits and signs in the place of letters.
_LETTERS = str.maketrans("аеорсухіјѕԁһνοιαερτυκԛɡıℓ", "aeopcyxijsdhvoiaeptukqgil")
_SIGNS = [str.maketrans("03457@$!|1", f"oeastasii{one}") for one in "il"]
_SPACED = re.compile(r"(?<!\w)\w(?:[\s.\-_*]\w){2,}(?!\w)")
_NUMBERS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|"
    "sixteen|seventeen"
)
_AGE = re.compile(
    rf"(?<!\w)(?:0?[0-9]|1[0-7]|{_NUMBERS})[\s\-]*"
    r"(?:y[\s./]*o\b|(?:years?|yrs?|months?|weeks?|days?)[\s\-]*(?:old\b|of\s+age\b))"
    rf"|\b(?:aged?|age\s+of)\s+(?:0?[0-9]|1[0-7]|{_NUMBERS})(?!\w)",
    re.I,
)


def require_adults(texts: Sequence[str]) -> None:
    """Raises ValueError if some text is about nudity and some text, the same or not, about a minor.

    Args:
      texts: all of a run, whoever gave them.
    """
    bare = next(((text, word) for text in texts if (word := nudity_in(text))), None)
    if bare is None:
        return
    for text in texts:
        if word := minor_in(text):
            raise ValueError(
                f"{text!r} has {word!r}, a word for a minor, in a run that is about nudity "
                f"({bare[1]!r}); name adults alone: woman, man, person"
            )


def how_shown(texts: Iterable[str], *, real: bool) -> str:
    """How pictures of some texts are written to disk unless a user says otherwise.

    Args:
      texts: prompts, or words that are erased.
      real: whether a model of real pictures makes them; flux-tiny is none.
    Returns:
      "pixelated" if a text is about nudity and pictures are real, else "plain".
    """
    return "pixelated" if real and any(map(nudity_in, texts)) else "plain"


def nudity_in(text: str) -> str | None:
    """The word for nudity that a text holds, in any form or spelling; None if there is none."""
    return _found(text, _listed("nudity.txt"))


def minor_in(text: str) -> str | None:
    """The word for a minor that a text holds, or an age below 18; None if there is none."""
    age = _AGE.search(spans.fold(text)[0])
    return age[0] if age else _found(text, _listed("minors.txt"))


def _found(text: str, words: forms.AnyOf) -> str | None:
    return next(filter(None, map(words.first, _readings(text))), None)


@functools.lru_cache(maxsize=4096)
def _readings(text: str) -> Sequence[str]:
    """A text as it is, without accents; with look-alikes read as letters; with letters joined."""
    folded = unicodedata.normalize("NFKD", spans.fold(text)[0])
    plain = "".join(letter for letter in folded if not unicodedata.combining(letter))
    plain = plain.translate(_LETTERS)
    read = [plain, *(plain.translate(signs) for signs in _SIGNS)]
    read += [_SPACED.sub(lambda found: re.sub(r"[\W_]", "", found[0]), one) for one in read]
    # A letter three times or more was one or two.
    read += [re.sub(r"(\w)\1{2,}", r"\1" * times, one) for one in read for times in (1, 2)]
    return tuple(dict.fromkeys([text, *read]))


@functools.cache
def _listed(name: str) -> forms.AnyOf:
    return forms.AnyOf(lists.lines(name))
