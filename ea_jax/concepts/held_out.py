"""Words that measure an erasure are never among those that trained it."""

from __future__ import annotations

from collections.abc import Iterable

from ea_jax.concepts import forms


def assert_disjoint(trained: Iterable[str], tested: Iterable[str], *, what: str = "words") -> None:
    """Two sets of words that may not meet, in no form of them.

    Raises:
      ValueError: lists every word that is in both.
    """
    trained = list(trained)
    overlap = sorted({word for word in tested if any(forms.same(word, one) for one in trained)})
    if overlap:
        raise ValueError(
            f"{what} used in training and in evaluation: {', '.join(map(repr, overlap))}; "
            "evaluate with others, or take them out of training"
        )


def assert_absent(tested: Iterable[str], prompts: Iterable[str]) -> None:
    """No held-out word may stand in a prompt of the bank, alone or in a sentence, in any form.

    Raises:
      ValueError: names a word and the first prompt that holds it.
    """
    prompts = list(prompts)
    for word in tested:
        for prompt in prompts:
            if forms.mentions(prompt, word):
                raise ValueError(
                    f"held-out word {word!r} is in training prompt {prompt!r}, in this form or "
                    "another; hold out another word, or take it out of the prompts"
                )
