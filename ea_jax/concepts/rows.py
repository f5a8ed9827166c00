"""The bank's texts: shuffled sentences, and each with the concept exchanged. No tensors yet.

target      a soccer ball beside a dog       dog soccer ball a beside a
synonym     a football beside a dog          dog football a beside a
irrelevant  a cloud beside a dog             dog cloud a beside a
anchor      beside a dog                     dog a beside a
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ea_jax.concepts import forms, sentences
from ea_jax.runtime.streams import stream

ANCHORS = ("removed", "replaced", "empty", "sentence")
SHUFFLES = ("phrase", "word")
_ROWS = 100  # first key of their streams; those of steps are smaller


@dataclasses.dataclass(frozen=True)
class Concept:
    """One concept to erase and the words around it.

    Attributes:
      word: one word or several.
      prompts: templates with `{}`, or sentences that hold the word.
      synonyms: for L_rsc; one is drawn for each row. None turns L_rsc off for this concept.
      irrelevant: lists of words, one for each class; see `ea_jax.concepts.irrelevant`.
    """

    word: str
    prompts: tuple[str, ...]
    synonyms: tuple[str, ...] = ()
    irrelevant: tuple[tuple[str, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How rows are made of concepts.

    Attributes:
      shuffles: rows for each concept; they take its prompts in turn.
      shuffle: `phrase` keeps a concept of several words together, `word` doesn't.
      probability: of shuffling a row; otherwise it keeps the plain order.
      words: irrelevant words in a row (K), from the classes in turn.
      anchor: L_esd's prompt: the row's sentence with the concept `removed`, or `replaced` by
        `neutral`; the `empty` prompt; or the `sentence` given as `neutral`.
      neutral: word or sentence; see `anchor`.
      seed: of everything drawn here.
    """

    shuffles: int = 32
    shuffle: str = "phrase"
    probability: float = 0.9
    words: int = 3
    anchor: str = "removed"
    neutral: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shuffle not in SHUFFLES:
            raise ValueError(
                f"data.shuffle = {self.shuffle!r} is unknown; use one of {list(SHUFFLES)}"
            )
        if self.anchor not in ANCHORS:
            raise ValueError(
                f"concept.anchor = {self.anchor!r} is unknown; use one of {list(ANCHORS)}"
            )
        if self.shuffles < 1:
            raise ValueError(f"data.shuffles = {self.shuffles}, and it has to be at least 1")
        if self.words < 1:
            raise ValueError(f"concept.words = {self.words}; L_rsc needs at least 1 (the paper: 3)")
        if self.anchor in ("replaced", "sentence") and self.neutral is None:
            raise ValueError(
                f"concept.anchor = {self.anchor!r} needs a text; set concept.neutral for "
                "'replaced', concept.anchor_sentence for 'sentence'"
            )


@dataclasses.dataclass(frozen=True)
class Variant:
    """A text, and the phrases in it whose tokens count; none for an anchor."""

    text: str
    phrases: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """One shuffled sentence in all its variants.

    Attributes:
      concept: number of the concept.
      sentence: which of its sentences; synonyms have their concept's, in the same order.
      target: with the concept.
      anchor: without it.
      others: with a synonym, then with K irrelevant words; empty without a synonym.
      words: the words of `others`, for the record.
    """

    concept: int
    sentence: int
    target: Variant
    anchor: Variant
    others: tuple[Variant, ...]
    words: tuple[str, ...]


def plain(concept: Concept) -> list[str]:
    """A concept's sentences, unshuffled: they make the pictures I_f.

    Raises:
      ValueError: no prompts, an empty concept, or a sentence that doesn't hold it.
    """
    if not concept.prompts:
        raise ValueError(f"concept {concept.word!r} has no prompts; give some in concept.sentences")
    return [sentences.complete(prompt, concept.word) for prompt in concept.prompts]


def with_synonyms(concept: Concept) -> list[Concept]:
    """The concept, and each of its synonyms in its place as one more to erase.

    Without irrelevant words its synonyms are there to be erased alone, not for L_rsc.
    """
    texts = plain(concept)
    contrasted = concept if concept.irrelevant else dataclasses.replace(concept, synonyms=())
    return [
        contrasted,
        *(
            Concept(name, tuple(sentences.exchange(text, concept.word, name) for text in texts))
            for name in concept.synonyms
        ),
    ]


def rows(concepts: Sequence[Concept], recipe: Recipe) -> list[Row]:
    """All rows of all concepts, a function of its arguments alone.

    Raises:
      ValueError: no concepts, one without sentences or irrelevant words, or an anchor that holds
        the concept.
    """
    if not concepts:
        raise ValueError("there is no concept to erase; set concept.word")
    made = []
    for number, concept in enumerate(concepts):
        texts = plain(concept)
        if recipe.anchor in ("replaced", "sentence"):
            setting = {"replaced": "concept.neutral", "sentence": "concept.anchor_sentence"}
            require_absent(concept.word, [recipe.neutral or ""], setting=setting[recipe.anchor])
        for text in texts:
            left = _anchor(text, concept.word, recipe)
            require_absent(concept.word, [left], setting=f"of sentence {text!r} the anchor")
        if concept.synonyms and not (concept.irrelevant and all(concept.irrelevant)):
            raise ValueError(
                f"concept {concept.word!r} has a synonym but no irrelevant words; give words of "
                "each class (concept.no_relation, far, mid), or no synonym, which turns L_rsc off"
            )
        for turn in range(recipe.shuffles):
            sentence = turn % len(texts)
            made.append(_row(number, concept, sentence, turn, recipe))
    return made


def require_absent(word: str, texts: Sequence[str], *, setting: str) -> None:
    """Raises ValueError, naming the text, if one of `texts` holds the concept in any form."""
    for text in texts:
        if forms.mentions(text, word):
            raise ValueError(
                f"{setting} {text!r} holds the concept {word!r}, or a form of it; it has to be "
                "without it"
            )


def _row(number: int, concept: Concept, sentence: int, turn: int, recipe: Recipe) -> Row:
    text = plain(concept)[sentence]

    def own(kind: int) -> np.random.Generator:
        return stream(recipe.seed, _ROWS, number, turn, kind)

    shuffled = own(0).random() < recipe.probability
    by_word = shuffled and recipe.shuffle == "word"
    if shuffled and not by_word:
        text = sentences.shuffle_phrases(text, concept.word, own(1))
    words = _draw_words(concept, recipe, own(2))
    anchor = _anchor(text, concept.word, recipe)
    others = [sentences.exchange(text, concept.word, word) for word in words]
    if by_word:
        # The concept's words come apart, so it is exchanged first; each text is then permuted by
        # the same stream, which is the same order for texts of the same length.
        text = sentences.shuffle_words(text, own(1))
        others = [sentences.shuffle_words(other, own(1)) for other in others]
        if recipe.anchor in ("removed", "replaced"):
            anchor = sentences.shuffle_words(anchor, own(1))

    def phrases(word: str) -> tuple[str, ...]:
        return tuple(word.split()) if by_word else (word,)

    return Row(
        concept=number,
        sentence=sentence,
        target=Variant(text, phrases(concept.word)),
        anchor=Variant(anchor),
        others=tuple(Variant(*pair) for pair in zip(others, map(phrases, words), strict=True)),
        words=words,
    )


def _anchor(text: str, word: str, recipe: Recipe) -> str:
    if recipe.anchor == "empty":
        return ""
    if recipe.anchor == "sentence":
        return recipe.neutral or ""
    if recipe.anchor == "removed":
        return sentences.remove(text, word)
    return sentences.exchange(text, word, recipe.neutral or "")


def _draw_words(concept: Concept, recipe: Recipe, rng: np.random.Generator) -> tuple[str, ...]:
    """A synonym, then K irrelevant words: classes in turn, no word twice if there are enough."""
    if not concept.synonyms:
        return ()
    orders = [[words[i] for i in rng.permutation(len(words))] for words in concept.irrelevant]
    synonym = concept.synonyms[rng.integers(len(concept.synonyms))]
    drawn = [
        orders[k % len(orders)][k // len(orders) % len(orders[k % len(orders)])]
        for k in range(recipe.words)
    ]
    return (synonym, *drawn)
