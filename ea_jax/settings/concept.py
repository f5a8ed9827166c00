"""Section `concept`: what is erased, and the words around it."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import (
    SettingsError,
    check,
    choice,
    number,
    optional,
    shown,
    text,
    texts,
)

KINDS = ("thing", "animal", "person", "brand", "style", "place", "relation", "state", "idea")
_LISTS = ("synonyms", "no_relation", "far", "mid")
# Texts for one concept alone; with several, each has its own made.
OF_ONE = ("sentences", "neutral", "anchor_sentence", *_LISTS)


@dataclasses.dataclass(frozen=True)
class ConceptSettings:
    """What is erased, and the words around it. A text that is left empty is made for the word.

    Attributes:
      word: the concept, one word or a phrase.
      words: several concepts in the place of `word`, with commas between them.
      kind: what sort of thing the word names; `auto` looks it up. It chooses the sentences.
      sentences: prompts that hold the word.
      erase: the `word` alone, or `word_and_synonyms`: each synonym takes its place in as many rows.
      anchor: L_esd's prompt without it: the sentence with the concept `removed`, or `replaced` by
        `neutral`; the `empty` prompt; or `anchor_sentence`.
      neutral: what takes the concept's place with `replaced`.
      anchor_sentence: a prompt without the concept.
      synonyms: seen in training; those that evaluate an erasure are never here.
      synonym_source: this list (`config`), WordNet, or a language model's endpoint; `auto` asks
        what there is: the list, the vocabulary of the model's world, WordNet, the endpoint.
      sense: WordNet's sense: `first` noun, `all`, or a name like `nude.n.01`.
      no_relation, far, mid: irrelevant words by how near they are, one of each drawn at a time.
      irrelevant_source: these lists (`config`), WordNet's similarities, an endpoint, or `auto`.
      endpoint, endpoint_model: URL of an OpenAI-compatible endpoint, and its model's name.
      endpoint_key: environment variable with its API key; None for an endpoint without keys.
      preserve_prompts: prompts without the concept whose pictures L_keep holds in place.
      near_prompts: likewise, about what is nearest to the concept and most easily lost with it.
      max_tokens: columns kept for the concept's tokens in a prompt, all occurrences together.
    """

    word: str | None = optional(text(word=True))
    words: str | None = optional(text())
    kind: str = choice("auto", *KINDS)
    sentences: tuple[str, ...] = texts()
    erase: str = choice("word", "word_and_synonyms")
    anchor: str = choice("removed", "replaced", "empty", "sentence")
    neutral: str | None = optional(text(word=True))
    anchor_sentence: str | None = optional(text())
    synonyms: tuple[str, ...] = texts(word=True)
    synonym_source: str = choice("auto", "config", "wordnet", "endpoint")
    sense: str = text()
    no_relation: tuple[str, ...] = texts(word=True)
    far: tuple[str, ...] = texts(word=True)
    mid: tuple[str, ...] = texts(word=True)
    irrelevant_source: str = choice("auto", "config", "wordnet", "endpoint")
    endpoint: str | None = optional(text())
    endpoint_model: str | None = optional(text())
    endpoint_key: str | None = optional(text())
    preserve_prompts: tuple[str, ...] = texts()
    near_prompts: tuple[str, ...] = texts()
    max_tokens: int = number(int, low=1, high=512)

    def __post_init__(self) -> None:
        check(self, "concept")
        self._require_named()
        for source in ("synonym_source", "irrelevant_source"):
            self._require(source, "endpoint", "endpoint")
        if self.endpoint is not None and self.endpoint_model is None:
            raise SettingsError(
                f"concept.endpoint = {shown(self.endpoint)} needs concept.endpoint_model; set "
                "--config.concept.endpoint_model"
            )
        self._require_different_words()
        named = [(self._key, word) for word in self.named]
        for key, word in (*named, *(("synonyms", one) for one in self.synonyms)):
            if (count := len(word.split())) > self.max_tokens:
                raise SettingsError(
                    f"concept.{key}: {shown(word)} has {count} words, and at least as many tokens, "
                    f"more than concept.max_tokens = {self.max_tokens}; shorten it, or raise that"
                )

    @property
    def named(self) -> tuple[str, ...]:
        """The concepts to erase, one or several."""
        if self.words is None:
            return (self.word or "",)
        return tuple(" ".join(word.split()) for word in self.words.split(","))

    @property
    def label(self) -> str:
        """All that is erased, in one line: it goes into reports and into the LoRA's file."""
        return ", ".join(self.named)

    @property
    def _key(self) -> str:
        return "word" if self.words is None else "words"

    def _require_named(self) -> None:
        """Either `word` or `words`; what belongs to one word is not there for several."""
        if (self.word is None) == (self.words is None):
            given = "neither is set" if self.word is None else "both are set"
            raise SettingsError(
                f"concept.word names one concept, concept.words several, and {given}; give one of "
                "them, like --config.concept.word=cat"
            )
        rule = text(word=True).metadata["check"]
        for word in self.named:
            rule(f"concept.{self._key}", word)
        for name in OF_ONE if len(self.named) > 1 else ():
            if getattr(self, name):
                raise SettingsError(
                    f"concept.{name} belongs to one word, and concept.words = {shown(self.words)} "
                    f"names {len(self.named)}; leave it empty, and it is made for each"
                )

    def _require_different_words(self) -> None:
        """No word has two roles, or stands twice in a list."""
        seen: dict[str, str] = {}
        listed = {self._key: self.named} | {name: getattr(self, name) for name in _LISTS}
        for name, words in listed.items():
            for word in words:
                if before := seen.get(_plain(word)):
                    raise SettingsError(
                        f"concept.{name} holds {shown(word)}, which is in concept.{before} "
                        "already; name it once"
                    )
                seen[_plain(word)] = name

    def _require(self, key: str, value: str, needed: str) -> None:
        if getattr(self, key) == value and getattr(self, needed) is None:
            raise SettingsError(
                f"concept.{key} = {value!r} needs concept.{needed}; set --config.concept.{needed}"
            )


def _plain(word: str) -> str:
    return " ".join(word.casefold().split())
