"""The texts of a prompt bank, before any is encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ea_jax.concepts import rows, spans


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The texts of a bank, before any is encoded.

    Attributes:
      rows: of all concepts.
      plain: the unshuffled sentences, each with its concept's number and the kind of its name.
      preserve: prompts without any concept; the last ones are about what is nearest to one.
      near: how many those are.
    """

    rows: Sequence[rows.Row]
    plain: Sequence[tuple[int, str, rows.Variant]]
    preserve: Sequence[str]
    near: int = 0

    @property
    def contrast(self) -> list[rows.Row]:
        return [row for row in self.rows if row.others]

    @property
    def groups(self) -> dict[str, list[rows.Variant]]:
        """Texts of each group of the bank, and where the concept is in them."""
        return {
            "target": [row.target for row in self.rows],
            "anchor": [row.anchor for row in self.rows],
            "others": [variant for row in self.contrast for variant in row.others],
            "plain": [variant for *_, variant in self.plain],
            "preserve": [rows.Variant(text) for text in self.preserve],
            "empty": [rows.Variant("")],
        }

    @property
    def texts(self) -> tuple[str, ...]:
        """All distinct texts: what a run trains on."""
        return tuple(dict.fromkeys(v.text for group in self.groups.values() for v in group))


def make(
    concepts: Sequence[rows.Concept],
    recipe: rows.Recipe,
    *,
    preserve: Sequence[str] = (),
    near: Sequence[str] = (),
    tokenizer: Any = None,
) -> Prompts:
    """Makes a bank's texts.

    Args:
      concepts, recipe: see `ea_jax.concepts.rows`.
      preserve: prompts without any concept.
      near: likewise, about what is nearest to one.
      tokenizer: T5's fast tokenizer, to see that it knows the words' letters; None looks at none.
    Raises:
      ValueError: concepts, prompts or words that don't do; see `rows.rows` and
        `spans.require_known`.
    """
    made = rows.rows(concepts, recipe)
    for concept in concepts:
        rows.require_absent(concept.word, preserve, setting="concept.preserve_prompts")
        rows.require_absent(concept.word, near, setting="concept.near_prompts")
    erased = [name for concept in concepts for _, name in rows.names(concept)]
    named = [*erased, *(word for row in made for word in row.words)]
    for word in dict.fromkeys(named if tokenizer is not None else ()):
        spans.require_known(tokenizer, word)
    plain = [
        (number, kind, rows.Variant(text, (name,)))
        for number, concept in enumerate(concepts)
        for kind, name in rows.names(concept)
        for text in rows.plain(concept, name)
    ]
    return Prompts(made, plain, (*preserve, *near), len(near))
