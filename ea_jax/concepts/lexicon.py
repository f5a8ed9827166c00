"""What is known of a word: its kind, its synonyms, and what lies so near that it isn't kept.

A `Lexicon` is one source of such knowledge: the vocabulary of flux-tiny's world, the package's own
lists, WordNet, a language model. A `Phrasebook` makes sentences around a word. A model comes with
one of each, see `ea_jax.evaluate.worlds`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ea_jax.concepts.irrelevant import IrrelevantWords


class Lexicon(Protocol):
    """One source of knowledge about words.

    Attributes:
      name: for the record of a run.
    """

    name: str

    def spelling(self, word: str) -> str | None:
        """The word as this source writes it; None if it doesn't know the word."""
        ...

    def kinds(self, word: str) -> Sequence[str]:
        """Kinds of `settings.concept.KINDS`, the most common one first; none if unknown."""
        ...

    def words(self) -> Sequence[str]:
        """All words that it knows by themselves, without their synonyms."""
        ...

    def synonyms(self, word: str) -> Sequence[str]:
        """Words for the same, that training may use."""
        ...

    def near(self, word: str) -> Sequence[str]:
        """Words whose pictures show the concept too, or almost: neither kept nor contrasted."""
        ...

    def compared(self, word: str, kind: str) -> tuple[str | None, str | None]:
        """For a grid: a word for the same that no training uses, and one of its neighbours."""
        ...

    def sibling(self, word: str) -> str | None:
        """What erasing the word takes along most easily, though it is another thing; to be kept."""
        ...

    def unknown(self, word: str) -> str:
        """Why a word that no source knows can't be erased, and what to give; one line."""
        ...

    def irrelevant(
        self, word: str, kind: str, *, avoid: Sequence[str], seed: int
    ) -> IrrelevantWords | None:
        """Words for L_rsc that hold none of `avoid`; None if there are too few."""
        ...


@dataclasses.dataclass(frozen=True)
class Phrases:
    """What is made around one word.

    Attributes:
      sentences: they hold the word.
      neutral: what takes its place in them.
      anchor_sentence: a prompt without it.
    """

    sentences: tuple[str, ...]
    neutral: str
    anchor_sentence: str


class Phrasebook(Protocol):
    """Sentences in the words of a model's world."""

    def around(self, word: str, kind: str, *, avoid: Sequence[str]) -> Phrases:
        """Sentences around a word; nothing else in them is a form of a word in `avoid`."""
        ...

    def alone(self, word: str, kind: str, *, avoid: Sequence[str]) -> tuple[str, ...]:
        """Prompts of a word and as little else as the model can paint, none of `avoid`."""
        ...

    def preserve(self, avoid: Sequence[str]) -> tuple[str, ...]:
        """Prompts about all sorts of things, none of them a form of a word in `avoid`."""
        ...

    def shown(
        self, word: str, kind: str, *, synonym: str | None, near: str | None
    ) -> Sequence[str]:
        """Rows of a grid, in templates that training has not: the word, its synonym, two others."""
        ...


class World(NamedTuple):
    """What words mean to a model.

    Attributes:
      lexicon: of the model's own world.
      phrases: in that world's words.
      closed: whether words that the lexicon doesn't have mean nothing to the model.
    """

    lexicon: Lexicon
    phrases: Phrasebook
    closed: bool = False
