"""WordNet through NLTK: synonyms of one sense, and how near two words are."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Nouns that an adjective is compared by: later ones stray.
_RELATED = 3

# Lexical files whose words aren't taken as their part of speech is.
_KINDS = {
    "noun.animal": "animal",
    "noun.person": "person",
    "noun.location": "place",
    **dict.fromkeys(
        (
            "noun.act",
            "noun.attribute",
            "noun.cognition",
            "noun.event",
            "noun.feeling",
            "noun.motive",
            "noun.process",
            "noun.relation",
            "noun.state",
        ),
        "idea",
    ),
}
_OF_SPEECH = {"n": "thing", "v": "relation", "a": "state", "s": "state", "r": "state"}
# Depth of hypernyms that all sorts of things share; how far up, and how many beside and below, a
# word's neighbours lie.
_BROAD, _UP, _SISTERS, _BELOW = 6, 4, 60, 200


def load(directory: str | Path | None = None) -> Any:
    """NLTK's WordNet reader, its files read (2 to 4 seconds).

    NLTK is imported here, since a run that takes its words elsewhere shouldn't wait for it.

    Args:
      directory: of NLTK data, the one that holds `corpora/wordnet` or `corpora/wordnet.zip`; put
        first among NLTK's own places. None asks those alone (NLTK_DATA, ~/nltk_data, ...).
    Raises:
      ValueError: there is no WordNet.
    """
    import nltk

    if directory is not None and str(directory) not in nltk.data.path:
        nltk.data.path.insert(0, str(directory))
    reader = nltk.corpus.wordnet
    try:
        reader.ensure_loaded()
    except (LookupError, OSError, zipfile.BadZipFile):
        looked = directory if directory is not None else "NLTK's data folders"
        raise ValueError(
            f"WordNet is not in {looked}, or damaged there; run `python -m nltk.downloader "
            "wordnet`, or set NLTK_DATA to a folder that holds corpora/wordnet.zip, or give the "
            "words in the config"
        ) from None
    return reader


def synonyms(reader: Any, word: str, *, sense: str = "first") -> list[str]:
    """Lemmas of a word's sense, without the word itself, "_" read as a space.

    Args:
      reader: from `load`.
      word: one word or several.
      sense: `first` noun sense; `all` senses of every part of speech; or the name of one, like
        `nude.n.01` (also a verb's: `kiss.v.01`).
    Returns:
      Maybe nothing: WordNet has no synonyms for most names.
    Raises:
      ValueError: WordNet has no sense of that name.
    """
    names = [
        name.replace("_", " ")
        for found in _senses(reader, word, sense)
        for name in found.lemma_names()
    ]
    return [name for name in dict.fromkeys(names) if name.casefold() != word.casefold()]


def noun_senses(reader: Any, word: str, *, sense: str = "first") -> list[Any]:
    """The nouns a word stands for: its sense, or the nouns that an adjective or verb comes from.

    Only nouns hang together in WordNet: "industrious" is compared as "industriousness".

    Args:
      reader, word, sense: as for `synonyms`.
    Raises:
      ValueError: WordNet has no sense of that name.
    """
    found = _senses(reader, word, sense) or reader.synsets(_lemma(word))
    nouns = [one for one in found if one.pos() == "n"]
    if nouns:
        return nouns
    for one in found:
        nouns += one.attributes()
        for lemma in one.lemmas():
            nouns += [form.synset() for form in lemma.derivationally_related_forms()]
    distinct = {noun.name(): noun for noun in nouns if noun.pos() == "n"}
    return list(distinct.values())[:_RELATED]


def similarity(one: Sequence[Any], other: Sequence[Any]) -> float:
    """Largest path similarity between two lists of noun senses, in (0, 1]; 1 is the same sense."""
    return max(a.path_similarity(b) or 0.0 for a in one for b in other)


def kinds(reader: Any, word: str) -> list[str]:
    """Kinds of a word by the lexical files of its senses, the most counted sense first.

    Args:
      reader: from `load`.
      word: one word or several, in any case.
    """
    named = [_KINDS.get(sense.lexname(), _OF_SPEECH[sense.pos()]) for sense in by_use(reader, word)]
    return list(dict.fromkeys(named))


def by_use(reader: Any, word: str) -> list[Any]:
    """Senses of a word of any part of speech, the most counted one first; maybe none."""

    def count(sense: Any) -> int:
        return sum(lemma.count() for lemma in sense.lemmas() if _same(lemma.name(), word))

    found = [sense for sense in reader.synsets(_lemma(word)) if _fits(sense, word)]
    return sorted(found, key=lambda sense: -count(sense))


def near(reader: Any, word: str) -> list[str]:
    """What a word's most used sense is a sort of, what is a sort of it, and its sisters.

    Names of broad classes ("animal", "object") are left out.
    """
    words: list[str] = []
    for sense in by_use(reader, word)[:1]:
        level = above = sense.hypernyms() + sense.instance_hypernyms()
        farther: list[Any] = []
        for _ in range(_UP - 1):
            level = [up for one in level for up in one.hypernyms()]
            farther += level
        sisters = [
            one for up in above if up.min_depth() > _BROAD for one in up.hyponyms()[:_SISTERS]
        ]
        below = list(itertools.islice(sense.closure(lambda one: one.hyponyms()), _BELOW))
        for one in (sense, *above, *farther, *sisters, *below):
            if one.min_depth() > _BROAD or sense.pos() == "v":
                words += [name.replace("_", " ") for name in one.lemma_names()]
    return [name for name in dict.fromkeys(words) if name.casefold() != word.casefold()]


def _fits(sense: Any, word: str) -> bool:
    """Whether a sense is the word's own: not a name's where the word has no capital."""
    spelled = [lemma.name() for lemma in sense.lemmas() if _same(lemma.name(), word)]
    # An inflected form: WordNet gives its base's senses.
    if not spelled:
        return True
    return not word.islower() or any(not name[:1].isupper() for name in spelled)


def _same(lemma: str, word: str) -> bool:
    return lemma.replace("_", " ").casefold() == " ".join(word.split()).casefold()


def _lemma(word: str) -> str:
    return "_".join(word.split())


def _senses(reader: Any, word: str, sense: str) -> list[Any]:
    if sense == "first":
        return reader.synsets(_lemma(word), pos="n")[:1]
    if sense == "all":
        return reader.synsets(_lemma(word))
    import nltk

    try:
        return [reader.synset(sense)]
    except (nltk.corpus.reader.WordNetError, ValueError, KeyError):
        raise ValueError(
            f"concept.sense = {sense!r} is not in WordNet; use first, all, or a name like nude.n.01"
        ) from None
