"""Words that measure an erasure are never among those that trained it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from ea_jax.concepts import spans


def assert_disjoint(trained: Iterable[str], tested: Iterable[str], *, what: str = "words") -> None:
    """Two sets of words or prompts that may not meet; case, width and spacing don't matter.

    Raises:
      ValueError: lists every word that is in both.
    """
    known = {_key(word) for word in trained}
    overlap = sorted({word for word in tested if _key(word) in known})
    if overlap:
        raise ValueError(
            f"{what} used in training and in evaluation: {', '.join(map(repr, overlap))}; "
            "evaluate with others, or take them out of training"
        )


def assert_absent(tested: Iterable[str], prompts: Iterable[str]) -> None:
    """No held-out word may stand in a prompt of the bank, alone or in a sentence.

    Raises:
      ValueError: names a word and the first prompt that holds it.
    """
    prompts = list(prompts)
    for word in tested:
        for prompt in prompts:
            if spans.occurrences(prompt, word):
                raise ValueError(
                    f"held-out word {word!r} is in training prompt {prompt!r}; "
                    "hold out another word, or take it out of the prompts"
                )


def _key(word: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", word).casefold().split())
