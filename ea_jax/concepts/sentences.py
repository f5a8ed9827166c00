"""Sentences around a concept: templates, shuffled word order, and the concept exchanged.

>>> exchange("a photo of a nude woman", "nude", "unclothed")
'a photo of an unclothed woman'
>>> remove("a soccer ball on grass", "soccer ball")
'on grass'
"""

from __future__ import annotations

import re

import numpy as np

from ea_jax.concepts import spans

SLOT = "{}"

# Spelled with a vowel and spoken with a consonant, and the other way round.
_SPOKEN_CONSONANT = re.compile(
    r"(?:uni(?![ndm])|us[aeiu]|uk|ut[eo]|eu|ewe|one(?!\w)|once|ufo|u-)", re.I
)
_SPOKEN_VOWEL = re.compile(r"(?:hour|honest|hono|heir)", re.I)
_ARTICLE_BEFORE = re.compile(r"(?<!\w)(an?)(\s+)$", re.I)
# After one of these an article has lost its noun.
_NO_NOUN = re.compile(
    r"(?:$|[.,;:!?)]|(?:on|in|at|of|with|by|and|or|near|under|over|above|below|behind|beside|"
    r"between|from|to|for|into|onto|against|around|through|is|are|was|were|that|who|which|as|"
    r"a|an|the)(?!\w))",
    re.I,
)


def fill(template: str, word: str) -> str:
    """A template with every `{}` replaced by `word`, and "a" or "an" before it set right.

    Raises:
      ValueError: no `{}` in the template.
    """
    if SLOT not in template:
        raise ValueError(f"template {template!r} has no {{}}; put it where the word belongs")
    out, rest = template.split(SLOT, 1)[0], template.split(SLOT)[1:]
    for tail in rest:
        out = _agree(out, word) + word + tail
    return out


def complete(text: str, concept: str) -> str:
    """A prompt that holds the concept: a filled template, or the text as it is.

    Raises:
      ValueError: the text has no `{}` and doesn't hold the concept, or the concept is empty.
    """
    if SLOT in text:
        text = fill(text, concept)
    spans.require(text, concept)
    return text


def exchange(text: str, concept: str, word: str) -> str:
    """`text` with every occurrence of the concept replaced, and the article before it set right.

    Raises:
      ValueError: the concept is empty or not in the text.
    """
    out, end = "", 0
    for start, stop in spans.require(text, concept):
        out = _agree(out + text[end:start], word) + word
        end = stop
    return out + text[end:]


def remove(text: str, concept: str) -> str:
    """`text` without the concept, without an article that has lost its noun, and tidied.

    Raises:
      ValueError: the concept is empty or not in the text.
    """
    out, end = "", 0
    for start, stop in spans.require(text, concept):
        out, rest = out + text[end:start], text[stop:]
        # A possessive goes with its owner.
        possessive = re.match(r"['\u2019]s(?!\w)", rest)
        end = stop + (possessive.end() if possessive else 0)
        following = text[end:].lstrip()
        article = re.search(r"(?<!\w)(?:an?|the)\s+$", out, re.I)
        if article and _NO_NOUN.match(following):
            out = out[: article.start()]
        else:
            out = _agree(out, following)
    return _tidy(out + text[end:])


def shuffle_phrases(text: str, concept: str, rng: np.random.Generator) -> str:
    """`text` with its words in random order, a concept of several words kept together.

    Punctuation moves with its word.

    Raises:
      ValueError: the concept is empty or not in the text.
    """
    pieces = _words(text)
    for start, stop in spans.require(text, concept):
        within = [piece for piece in pieces if piece[0] < stop and piece[1] > start]
        first = pieces.index(within[0])
        pieces[first : first + len(within)] = [(within[0][0], within[-1][1])]
    return _permuted(text, pieces, rng)


def shuffle_words(text: str, rng: np.random.Generator) -> str:
    """`text` with its words in random order; a concept of several words may come apart.

    For the presets that follow the paper's letter and the authors' release.
    """
    return _permuted(text, _words(text), rng)


def _words(text: str) -> spans.Spans:
    return [match.span() for match in re.finditer(r"\S+", text)]


def _permuted(text: str, pieces: spans.Spans, rng: np.random.Generator) -> str:
    return " ".join(text[slice(*pieces[i])] for i in rng.permutation(len(pieces)))


def _agree(before: str, word: str) -> str:
    """`before`, its final "a" or "an" as `word` wants it."""
    article = _ARTICLE_BEFORE.search(before)
    if not article or not word:
        return before
    vowel = word[0].lower() in "aeiou" and not _SPOKEN_CONSONANT.match(word)
    right = "an" if vowel or _SPOKEN_VOWEL.match(word) else "a"
    if re.match(r"(?:an?|the)\s", word, re.I):
        # The word brings its own article.
        return before[: article.start()]
    if article[1][0] == "A":
        right = right.capitalize()
    return before[: article.start()] + right + article[2]


def _tidy(text: str) -> str:
    """Single spaces, and no punctuation that separates nothing."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([.,;:!?)])", r"\1", text)
    text = re.sub(r"(?:,\s*)+(?=[.,;:!?]|$)", "", text)
    return text.strip(" ,;:")
