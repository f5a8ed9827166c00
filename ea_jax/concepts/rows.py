"""The bank's texts: shuffled sentences, and each with the concept exchanged. No tensors yet.

target      a soccer ball beside a dog       dog soccer ball a beside a
synonym     a football beside a dog          dog football a beside a
irrelevant  a cloud beside a dog             dog cloud a beside a
anchor      beside a dog                     dog a beside a
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from ea_jax.concepts import forms, sentences
from ea_jax.runtime.streams import stream

ANCHORS = ("removed", "replaced", "empty", "sentence")
SHUFFLES = ("phrase", "word")
# What a row's target names the concept by.
WORD, SYNONYM, SLIP = "word", "synonym", "slip"
_ROWS = 100  # first key of their streams; those of steps are smaller


@dataclasses.dataclass(frozen=True)
class Concept:
    """One concept to erase and the words around it.

    Attributes:
      word: one word or several.
      prompts: templates with `{}`, or sentences that hold the word.
      synonyms: for L_rsc; one is drawn for each row. Without any, L_rsc is off for it.
      irrelevant: lists of words, one for each class; see `ea_jax.concepts.irrelevant`.
      also: further names that are erased like the word, in its sentences; synonyms, mostly.
      slips: the word misspelled and so on; see `ea_jax.concepts.slips`.
      neutral: word or sentence that L_esd goes towards; see `Recipe.anchor`.
      alone: templates of the word and as little else as a model can paint.
    """

    word: str
    prompts: tuple[str, ...]
    synonyms: tuple[str, ...] = ()
    irrelevant: tuple[tuple[str, ...], ...] = ()
    also: tuple[str, ...] = ()
    slips: tuple[str, ...] = ()
    neutral: str | None = None
    alone: tuple[str, ...] = ("{}",)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How rows are made of concepts.

    Attributes:
      shuffles: rows for each concept; they take its prompts in turn.
      alone: rows hold `Concept.alone` in the place of its prompts.
      shuffle: `phrase` keeps a concept of several words together, `word` doesn't.
      probability: of shuffling a row; otherwise it keeps the plain order.
      words: irrelevant words in a row, from the classes in turn.
      anchor: L_esd's prompt: the row's sentence with the concept `removed`, or `replaced` by the
        concept's `neutral`; the `empty` prompt; or the `sentence` that is its `neutral`.
      seed: of everything drawn here.
    """

    shuffles: int = 32
    alone: bool = False
    shuffle: str = "phrase"
    probability: float = 0.9
    words: int = 3
    anchor: str = "removed"
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
            raise ValueError(
                f"data.irrelevant = {self.words}; L_rsc needs at least 1 (the paper: 3)"
            )


@dataclasses.dataclass(frozen=True)
class Variant:
    """A text, and the phrases in it whose tokens count; for an anchor what replaces the word."""

    text: str
    phrases: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """One shuffled sentence in all its variants.

    Attributes:
      concept: number of the concept.
      name: what stands in its place: its `word`, a `synonym` of it, or one of its `slips`.
      sentence: which of the concept's sentences.
      target: with the concept.
      anchor: without it.
      others: with a synonym, then with irrelevant words; empty without a synonym.
      words: the words of `others`, for the record.
    """

    concept: int
    name: str
    sentence: int
    target: Variant
    anchor: Variant
    others: tuple[Variant, ...]
    words: tuple[str, ...]


def plain(concept: Concept, name: str | None = None, *, alone: bool = False) -> list[str]:
    """A concept's sentences, unshuffled: they make the pictures I_f.

    Args:
      concept: whose.
      name: what stands in its word's place; None for the word.
      alone: gives `Concept.alone` instead of its prompts.
    Raises:
      ValueError: no prompts, an empty concept, or a sentence that doesn't hold it.
    """
    if not concept.prompts:
        raise ValueError(f"concept {concept.word!r} has no prompts; give some in concept.sentences")
    prompts = concept.alone if alone else concept.prompts
    made = [sentences.complete(prompt, concept.word) for prompt in prompts]
    if name is None or name == concept.word:
        return made
    return [sentences.exchange(text, concept.word, name) for text in made]


def with_synonyms(concept: Concept) -> Concept:
    """The concept with its synonyms erased like its word.

    Without irrelevant words they are there to be erased alone, not for L_rsc.
    """
    contrast = concept.synonyms if concept.irrelevant else ()
    return dataclasses.replace(concept, synonyms=contrast, also=concept.synonyms)


def names(concept: Concept) -> list[tuple[str, str]]:
    """A concept's word and the synonyms that are erased too, each with its kind."""
    return [(WORD, concept.word), *((SYNONYM, name) for name in concept.also)]


def rows(concepts: Sequence[Concept], recipe: Recipe) -> list[Row]:
    """All rows of all concepts, a function of its arguments alone.

    As many for each name that is erased, and as many for all slips of a concept together.

    Raises:
      ValueError: no concepts, one without sentences or irrelevant words, or an anchor that holds
        the concept.
    """
    if not concepts:
        raise ValueError("there is no concept to erase; set concept.word")
    made, streams = [], itertools.count()
    for number, concept in enumerate(concepts):
        _require_apart(concept, recipe)
        turns = range(recipe.shuffles)
        named = [(kind, [name]) for kind, name in names(concept)]
        for kind, spelled in (*named, *([(SLIP, concept.slips)] if concept.slips else [])):
            own = next(streams)
            made += [
                _row(number, kind, concept, spelled[turn % len(spelled)], turn, recipe, own)
                for turn in turns
            ]
    return made


def _require_apart(concept: Concept, recipe: Recipe) -> None:
    """Anchors are without the concept, and a synonym has irrelevant words beside it."""
    setting = {"replaced": "concept.neutral", "sentence": "concept.anchor_sentence"}
    if recipe.anchor in setting:
        if concept.neutral is None:
            raise ValueError(
                f"concept.anchor = {recipe.anchor!r} needs a text; set concept.neutral for "
                "'replaced', concept.anchor_sentence for 'sentence'"
            )
        require_absent(concept.word, [concept.neutral], setting=setting[recipe.anchor])
    for text in plain(concept, alone=recipe.alone):
        left = _anchor(text, concept.word, concept, recipe)
        require_absent(concept.word, [left], setting=f"of sentence {text!r} the anchor")
    if concept.synonyms and not (concept.irrelevant and all(concept.irrelevant)):
        raise ValueError(
            f"concept {concept.word!r} has a synonym but no irrelevant words; give words of "
            "each class (concept.no_relation, far, mid), or no synonym, which turns L_rsc off"
        )


def require_absent(word: str, texts: Sequence[str], *, setting: str) -> None:
    """Raises ValueError, naming the text, if one of `texts` holds the concept in any form."""
    for text in texts:
        if forms.mentions(text, word):
            raise ValueError(
                f"{setting} {text!r} holds the concept {word!r}, or a form of it; it has to be "
                "without it"
            )


def _row(
    number: int, kind: str, concept: Concept, name: str, turn: int, recipe: Recipe, own_stream: int
) -> Row:
    texts = plain(concept, name, alone=recipe.alone)
    sentence = turn % len(texts)
    text = texts[sentence]

    def own(purpose: int) -> np.random.Generator:
        return stream(recipe.seed, _ROWS, own_stream, turn, purpose)

    shuffled = own(0).random() < recipe.probability
    by_word = shuffled and recipe.shuffle == "word"
    if shuffled and not by_word:
        text = sentences.shuffle_phrases(text, name, own(1))
    words = _draw_words(concept, recipe, own(2)) if kind == WORD else ()
    anchor = _anchor(text, name, concept, recipe)
    others = [sentences.exchange(text, name, word) for word in words]
    if by_word:
        # The concept's words come apart, so it is exchanged first; each text is then permuted by
        # the same stream, which is the same order for texts of the same length.
        text = sentences.shuffle_words(text, own(1))
        others = [sentences.shuffle_words(other, own(1)) for other in others]
        if recipe.anchor in ("removed", "replaced"):
            anchor = sentences.shuffle_words(anchor, own(1))

    neutral = concept.neutral if recipe.anchor == "replaced" else None

    def phrases(word: str) -> tuple[str, ...]:
        return tuple(word.split()) if by_word else (word,)

    return Row(
        concept=number,
        name=kind,
        sentence=sentence,
        target=Variant(text, phrases(name)),
        anchor=Variant(anchor, phrases(neutral) if neutral else ()),
        others=tuple(Variant(*pair) for pair in zip(others, map(phrases, words), strict=True)),
        words=words,
    )


def _anchor(text: str, name: str, concept: Concept, recipe: Recipe) -> str:
    if recipe.anchor == "empty":
        return ""
    if recipe.anchor == "removed":
        return sentences.remove(text, name)
    neutral = concept.neutral or ""
    return neutral if recipe.anchor == "sentence" else sentences.exchange(text, name, neutral)


def _draw_words(concept: Concept, recipe: Recipe, rng: np.random.Generator) -> tuple[str, ...]:
    """A synonym, then irrelevant words: classes in turn, no word twice if there are enough."""
    if not concept.synonyms:
        return ()
    orders = [[words[i] for i in rng.permutation(len(words))] for words in concept.irrelevant]
    synonym = concept.synonyms[rng.integers(len(concept.synonyms))]
    drawn = [
        orders[k % len(orders)][k // len(orders) % len(orders[k % len(orders)])]
        for k in range(recipe.words)
    ]
    return (synonym, *drawn)
