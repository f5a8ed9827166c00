"""Where a run's words come from: its config, its model's world, WordNet, a language model.

`auto` asks what there is, in that order, and goes on without what is absent or fails. A source that
is asked for by name has to answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from ea_jax.concepts import articles, forms, irrelevant, synonyms, wordnet
from ea_jax.concepts import endpoint as endpoints
from ea_jax.concepts.irrelevant import IrrelevantWords
from ea_jax.concepts.lexicon import World
from ea_jax.settings import ConceptSettings

# Source of a kind: a word that no source knows, and that is written as names are.
CAPITALS = "its capitals"


class Sources:
    """The sources of a run.

    Args:
      chosen: what the config says of the concept.
      world: of the model.
      asks: whether something will read synonyms and irrelevant words; a language model is asked
        for nothing else.
      seed: of draws from WordNet.
    Attributes:
      missing: under `auto`, sources that gave nothing, each with the reason.
    """

    def __init__(
        self, chosen: ConceptSettings, world: World, *, asks: bool = True, seed: int = 0
    ) -> None:
        self._chosen, self._world, self._seed = chosen, world, seed
        self._asks = asks and chosen.endpoint is not None
        self.missing: dict[str, str] = {}

    def kind(self, word: str) -> tuple[str, str, tuple[str, ...]]:
        """A word's kind, who said so, and its other kinds.

        Raises:
          ValueError: no source knows the word.
        """
        if self._chosen.kind != "auto":
            return self._chosen.kind, "config", ()
        lexicon = self._world.lexicon
        kinds, source = tuple(lexicon.kinds(word)), lexicon.name
        if not kinds and not self._world.closed:
            if reader := self._reader:
                kinds, source = tuple(wordnet.kinds(reader, word)), "wordnet"
            if not kinds and all(part[0].isupper() for part in word.split()):
                kinds, source = ("person",), CAPITALS
            # A polar bear is a bear, and ants are what an ant is.
            for head in () if kinds else forms.heads(articles.head_of(word.split())):
                kinds, source = kinds or tuple(lexicon.kinds(head)), f"{lexicon.name}: {head}"
        if not kinds:
            raise ValueError(lexicon.unknown(word))
        return kinds[0], source, kinds[1:]

    def near(self, word: str) -> tuple[str, ...]:
        """Neighbours that are neither kept nor contrasted, of all sources."""
        found = list(self._world.lexicon.near(word))
        if not self._world.closed and (reader := self._reader):
            found += wordnet.near(reader, word)
        return tuple(dict.fromkeys(found))

    def synonyms(self, word: str, kind: str, *, avoid: Sequence[str]) -> synonyms.Synonyms:
        """Of the first source that has any, none of `avoid` among them.

        What lists and WordNet say under `auto` is of a word's first kind; of another one, nothing.
        """
        chosen, named = self._chosen, self._chosen.synonym_source
        asked: dict[str, synonyms.Source] = {}
        if named == "wordnet":
            reader = wordnet.load()
            asked["wordnet"] = lambda word: wordnet.synonyms(reader, word, sense=chosen.sense)
        if named == "endpoint":
            asked["endpoint"] = lambda word: synonyms.from_endpoint(self._endpoint, word)
        asked["config"] = lambda word: chosen.synonyms
        if named == "auto":
            lexicon = self._world.lexicon
            if kind == [*lexicon.kinds(word), kind][0]:
                asked[lexicon.name] = lexicon.synonyms
                if not self._world.closed:
                    asked["wordnet"] = self._of_wordnet
            if self._asks:
                asked["endpoint"] = self._passing(
                    "endpoint", lambda word: synonyms.from_endpoint(self._endpoint, word), ()
                )
        return synonyms.find(word, asked, avoid=avoid)

    def irrelevant(
        self, word: str, kind: str, *, avoid: Sequence[str], near: Sequence[str]
    ) -> IrrelevantWords | None:
        """Of the first source that has enough; None if none has.

        Args:
          word: the concept.
          kind: of it.
          avoid: words that none of these may hold, whoever gives them.
          near: words that a source leaves out, and the config may give.
        Raises:
          ValueError: a source that is asked for by name has none, or the config's hold `avoid`.
        """
        chosen, named = self._chosen, self._chosen.irrelevant_source
        lists = {name: getattr(chosen, name) for name in irrelevant.CLASSES}
        if named == "config" or (named == "auto" and all(lists.values())):
            return irrelevant.from_lists(lists, word, avoid=avoid)
        avoid = (*avoid, *near)
        if named == "wordnet":
            return irrelevant.from_wordnet(
                wordnet.load(), word, sense=chosen.sense, avoid=avoid, seed=self._seed
            )
        if named == "endpoint":
            return irrelevant.from_endpoint(self._endpoint, word, avoid=avoid)
        found = self._world.lexicon.irrelevant(word, kind, avoid=avoid, seed=self._seed)
        if found is None and self._asks:
            found = self._passing(
                "endpoint",
                lambda word: irrelevant.from_endpoint(self._endpoint, word, avoid=avoid),
                None,
            )(word)
        return found

    @property
    def _endpoint(self) -> endpoints.Endpoint:
        chosen = self._chosen
        return endpoints.Endpoint(
            chosen.endpoint or "", chosen.endpoint_model or "", key_variable=chosen.endpoint_key
        )

    def _of_wordnet(self, word: str) -> Sequence[str]:
        if not (reader := self._reader):
            return ()
        senses, named = wordnet.by_use(reader, word), self._chosen.sense
        sense = senses[0].name() if senses and named == "first" else named
        return wordnet.synonyms(reader, word, sense=sense)

    @functools.cached_property
    def _reader(self) -> Any:
        """WordNet, or None where it isn't installed."""
        return self._passing("wordnet", lambda _: wordnet.load(), None)("")

    def _passing(self, name: str, ask: Callable[[str], Any], nothing: Any) -> Callable[[str], Any]:
        """Asks a source; what fails is noted, and gives `nothing`."""

        def asked(word: str) -> Any:
            try:
                return ask(word)
            except ValueError as error:
                self.missing[name] = " ".join(str(error).split())
                return nothing

        return asked
