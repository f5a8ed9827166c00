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


@dataclasses.dataclass(frozen=True)
class ConceptSettings:
    """What is erased, and the words around it.

    Attributes:
      word: the concept, one word or several.
      sentences: prompts that hold it.
      erase: the `word` alone, or `word_and_synonyms`: each synonym takes its place in as many rows.
      anchor: L_esd's prompt without it: the sentence with the concept `removed`, or `replaced` by
        `neutral`; the `empty` prompt; or `anchor_sentence`.
      neutral: what takes the concept's place.
      anchor_sentence: a prompt without the concept.
      synonyms: seen in training; those that evaluate an erasure are never here.
      synonym_source: this list (`config`), WordNet, or a language model's endpoint.
      sense: WordNet's sense: `first` noun, `all`, or a name like `nude.n.01`.
      no_relation, far, mid: irrelevant words by how near they are, one of each drawn at a time.
      irrelevant_source: these lists (`config`), WordNet's similarities, or an endpoint.
      endpoint, endpoint_model: URL of an OpenAI-compatible endpoint, and its model's name.
      endpoint_key: environment variable with its API key; None for an endpoint without keys.
      preserve_prompts: prompts without the concept whose pictures L_keep holds in place.
      near_prompts: prompts about what is nearest to the concept, without it. A closed form keeps
        their text; nothing is trained on them.
      max_tokens: columns kept for the concept's tokens in a prompt, all occurrences together.
    """

    word: str = text(word=True)
    sentences: tuple[str, ...] = texts(least=1)
    erase: str = choice("word", "word_and_synonyms")
    anchor: str = choice("removed", "replaced", "empty", "sentence")
    neutral: str | None = optional(text(word=True))
    anchor_sentence: str | None = optional(text())
    synonyms: tuple[str, ...] = texts(word=True)
    synonym_source: str = choice("config", "wordnet", "endpoint")
    sense: str = text()
    no_relation: tuple[str, ...] = texts(word=True)
    far: tuple[str, ...] = texts(word=True)
    mid: tuple[str, ...] = texts(word=True)
    irrelevant_source: str = choice("config", "wordnet", "endpoint")
    endpoint: str | None = optional(text())
    endpoint_model: str | None = optional(text())
    endpoint_key: str | None = optional(text())
    preserve_prompts: tuple[str, ...] = texts()
    near_prompts: tuple[str, ...] = texts()
    max_tokens: int = number(int, low=1, high=512)

    def __post_init__(self) -> None:
        check(self, "concept")
        self._require("anchor", "replaced", "neutral")
        self._require("anchor", "sentence", "anchor_sentence")
        for source in ("synonym_source", "irrelevant_source"):
            self._require(source, "endpoint", "endpoint")
            self._require(source, "endpoint", "endpoint_model")
        self._require_different_words()
        for key, word in (("word", self.word), *(("synonyms", one) for one in self.synonyms)):
            if (count := len(word.split())) > self.max_tokens:
                raise SettingsError(
                    f"concept.{key}: {shown(word)} has {count} words, and at least as many tokens, "
                    f"more than concept.max_tokens = {self.max_tokens}; shorten it, or raise that"
                )

    def _require_different_words(self) -> None:
        """No word has two roles, or stands twice in a list."""
        seen = {_plain(self.word): "word"}
        for name in ("synonyms", "no_relation", "far", "mid"):
            for word in getattr(self, name):
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
