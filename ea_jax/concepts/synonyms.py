"""Synonyms of a concept: from the first source that has any, with a record of which it was."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from ea_jax.concepts import endpoint as endpoints
from ea_jax.concepts import forms, replies

Source = Callable[[str], Sequence[str]]

_QUESTION = """\
List up to {count} words or short phrases in English that mean exactly the same as {word} when \
someone describes a picture. Leave out the word itself, its plural, and anything broader or \
narrower.
Answer with one JSON list of strings and nothing else, for example ["sofa", "settee"]. If there \
is none, answer []."""


@dataclasses.dataclass(frozen=True)
class Synonyms:
    """What was found.

    Attributes:
      words: synonyms, no form of the word itself among them.
      source: name of the source that gave them; `none` if no source had any.
    """

    words: tuple[str, ...]
    source: str


def find(word: str, sources: Mapping[str, Source], *, avoid: Iterable[str] = ()) -> Synonyms:
    """Asks sources in order until one has a synonym.

        find("nude", {"wordnet": lambda w: wordnet.synonyms(reader, w), "config": curated.get})

    Args:
      word: the concept.
      sources: {name: word -> synonyms}.
      avoid: words to leave out, such as those that measure the erasure.
    """
    refused = tuple(avoid)
    for name, source in sources.items():
        given = (" ".join(found.replace("_", " ").split()) for found in source(word))
        words = tuple(
            found
            for found in dict.fromkeys(given)
            # One that holds the word is erased with it.
            if found
            and not forms.mentions(found, word)
            and not any(forms.same(found, one) for one in refused)
        )
        if words:
            return Synonyms(words, name)
    return Synonyms((), "none")


def from_endpoint(endpoint: endpoints.Endpoint, word: str, *, count: int = 8) -> list[str]:
    """A language model's synonyms; maybe none.

    Raises:
      EndpointError: no answer that is a list of strings.
    """
    question = _QUESTION.format(count=count, word=json.dumps(word, ensure_ascii=False))
    return endpoints.ask(endpoint, question, _parse)


def _parse(reply: str) -> list[str]:
    words = replies.first_list(reply)
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"not a list of words: {words!r}")
    return words
