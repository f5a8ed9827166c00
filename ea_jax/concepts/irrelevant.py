"""Irrelevant words in three classes of similarity to the concept, each with a score.

Source: EraseAnything (ICML 2025), Appendix C and Table 5. L_rsc pulls the concept's features
toward one word of each class; physical words ("cloud") and abstract ones ("industrious") count
alike.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ea_jax.concepts import endpoint as endpoints
from ea_jax.concepts import forms, replies, wordnet

CLASSES = ("no_relation", "far", "mid")
Scored = tuple[str, float | None]

# Nearer than this by WordNet is a synonym, a parent or a child.
_TOO_NEAR = 0.5
# Of all words by similarity, the farther half, the nearer half, the nearest tenth: path
# similarities crowd at the low end, where thirds would call a bicycle near to a painting.
_CUTS = (0.0, 0.5, 0.9, 1.0)
_QUESTION = """\
A text-to-image model is to forget the concept {word}. To see what else it must keep, I need \
English words that differ from it in meaning, in three groups by how similar they are to it on a \
scale from 0 (nothing in common) to 1 (the same thing):
- no_relation: about 0 to 0.2
- far: about 0.2 to 0.4, sharing a loose association
- mid: about 0.4 to 0.6, related but clearly another thing
Give {count} words for each group. Mix things one can touch with qualities and ideas. No word \
may be a synonym of {word}, contain it, or appear twice.
Answer with one JSON object and nothing else, each group a list of [word, score] pairs, like
{{"no_relation": [["spoon", 0.1], ...], "far": [...], "mid": [...]}}"""


@dataclasses.dataclass(frozen=True)
class IrrelevantWords:
    """Words by class.

    Attributes:
      no_relation, far, mid: (word, score) pairs; a score is in [0, 1], or None where the source
        has none.
      source: `config`, `endpoint` or `wordnet`.
    """

    no_relation: tuple[Scored, ...]
    far: tuple[Scored, ...]
    mid: tuple[Scored, ...]
    source: str

    @property
    def classes(self) -> tuple[tuple[str, ...], ...]:
        """The words alone, class by class: what `rows.Concept` takes."""
        return tuple(tuple(word for word, _ in getattr(self, name)) for name in CLASSES)


def from_lists(
    lists: Mapping[str, Sequence[Any]],
    word: str,
    *,
    avoid: Iterable[str] = (),
    source: str = "config",
) -> IrrelevantWords:
    """Checked words from lists of words or of [word, score] pairs.

    Args:
      lists: {class: words}.
      word: the concept.
      avoid: words that may not be used: synonyms, and those that will measure the erasure.
      source: for the record.
    Raises:
      ValueError: a class missing, unknown or empty; an entry that is no word, or whose score is
        not in [0, 1]; a word given twice, to be avoided, or holding the concept.
    """
    unknown = set(lists) - set(CLASSES)
    if unknown:
        raise ValueError(f"class {sorted(unknown)[0]!r} is unknown; use {list(CLASSES)}")
    seen: set[str] = set()
    refused = (word, *avoid)
    classes: dict[str, tuple[Scored, ...]] = {}
    for name in CLASSES:
        entries = lists.get(name, ())
        if isinstance(entries, str) or not isinstance(entries, Sequence) or not len(entries):
            raise ValueError(f"class {name!r} of irrelevant words is empty; give a list of words")
        classes[name] = tuple(_scored(entry, name) for entry in entries)
        for other, _ in classes[name]:
            if other.casefold() in seen:
                raise ValueError(f"irrelevant word {other!r} is given twice; name it once")
            if any(forms.mentions(other, one) for one in refused):
                raise ValueError(
                    f"irrelevant word {other!r} is the concept {word!r}, a synonym of it, or held "
                    "out; give another"
                )
            seen.add(other.casefold())
    return IrrelevantWords(**classes, source=source)


def from_endpoint(
    endpoint: endpoints.Endpoint, word: str, *, count: int = 3, avoid: Iterable[str] = ()
) -> IrrelevantWords:
    """A language model's words.

    Args:
      endpoint: whom to ask.
      word: the concept.
      count: words in each class.
      avoid: as for `from_lists`; a model that names one is asked again.
    Raises:
      EndpointError: no answer with three whole classes.
    """
    avoid = tuple(avoid)
    question = _QUESTION.format(word=json.dumps(word, ensure_ascii=False), count=count)

    def parse(reply: str) -> IrrelevantWords:
        lists = {name: replies.named_list(reply, name) for name in CLASSES}
        if any(isinstance(entry, str) for entries in lists.values() for entry in entries):
            raise ValueError("words without scores")
        return from_lists(lists, word, avoid=avoid, source="endpoint")

    return endpoints.ask(endpoint, question, parse)


def from_wordnet(
    reader: Any,
    word: str,
    *,
    sense: str = "first",
    count: int = 3,
    avoid: Iterable[str] = (),
    among: Sequence[str] | None = None,
    seed: int = 0,
) -> IrrelevantWords:
    """Common words, ranked by path similarity to the concept and cut into three classes.

    Args:
      reader: from `wordnet.load`.
      word: the concept; of a phrase that WordNet lacks, its last word is compared.
      sense: of the concept; see `wordnet.synonyms`.
      count: words drawn from each class.
      avoid: words to leave out.
      among: words to choose from; None takes the package's list.
      seed: of the draw.
    Raises:
      ValueError: WordNet has neither the concept nor its last word, or too few words are left.
    """
    here = wordnet.noun_senses(reader, word, sense=sense)
    here = here or wordnet.noun_senses(reader, word.split()[-1])
    if not here:
        raise ValueError(
            f"WordNet doesn't know {word!r}; give concept.no_relation, far and mid in the config"
        )
    refused = (word, *avoid, *wordnet.synonyms(reader, word, sense="all"))
    scored = []
    for other in among if among is not None else common_words():
        there = wordnet.noun_senses(reader, other)
        if there and not any(forms.mentions(other, one) for one in refused):
            scored.append((wordnet.similarity(here, there), other))
    scored = sorted(pair for pair in scored if pair[0] < _TOO_NEAR)
    rng = np.random.default_rng(seed)
    lists = {}
    for number, name in enumerate(CLASSES):
        low, high = (int(cut * len(scored)) for cut in _CUTS[number : number + 2])
        if high - low < count:
            raise ValueError(
                f"{len(scored)} words are too few for {count} in class {name!r}; give more"
            )
        chosen = low + np.sort(rng.permutation(high - low)[:count])
        lists[name] = [(scored[i][1], round(scored[i][0], 3)) for i in chosen]
    return from_lists(lists, word, source="wordnet")


def common_words() -> list[str]:
    """The package's list of common nouns and adjectives, concrete and abstract."""
    text = importlib.resources.files("ea_jax.concepts").joinpath("common_words.txt")
    return text.read_text(encoding="utf-8").split()


def _scored(entry: Any, name: str) -> Scored:
    word, score = entry, None
    if not isinstance(entry, str):
        if not isinstance(entry, Sequence) or len(entry) != 2:
            raise ValueError(f"{entry!r} in class {name!r} is no [word, score] pair")
        word, score = entry
        # True is a number to Python, and NaN fails every comparison.
        fits = isinstance(score, int | float) and not isinstance(score, bool)
        if not fits or not math.isfinite(score) or not 0 <= score <= 1:
            raise ValueError(f"score {score!r} of {word!r} in class {name!r} is not in [0, 1]")
        score = float(score)
    if not isinstance(word, str) or not word.strip():
        raise ValueError(f"{word!r} in class {name!r} is no word")
    return " ".join(word.split()), score
