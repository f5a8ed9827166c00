"""From an experiment's settings to the words a run uses, and a record of where they came from."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ea_jax.concepts import endpoint as endpoints
from ea_jax.concepts import forms, held_out, irrelevant, rows, synonyms, wordnet
from ea_jax.runtime.cache import cache_file, keep_json, kept_json
from ea_jax.settings import ConceptSettings, Settings

Record = dict[str, Any]
_log = logging.getLogger(__name__)


def concept(
    settings: Settings, *, tested: Sequence[str] = (), contrast: bool = True
) -> tuple[rows.Concept, Record]:
    """The concept with its synonyms, and the words that L_rsc contrasts them with.

    Words are chosen where something reads them: synonyms for L_rsc and for erasing them too,
    irrelevant words for L_rsc.

    Synonyms come from `synonym_source`, then from the config's own list.

    Args:
      settings: of the run.
      tested: words that will measure the erasure. A source's are left out; one that the config
        itself names is an error.
      contrast: whether anything reads synonyms and irrelevant words to contrast them.
    Returns:
      The concept, and for the run's folder: words, scores and sources.
    Raises:
      ValueError: words that can't be used, an absent WordNet, an endpoint that fails, or a text to
        keep that holds the concept or a synonym of it.
    """
    chosen = settings.concept
    record: Record = {"word": chosen.word}
    _require_kept_apart(chosen)
    _require_different(chosen)
    erased_too = chosen.erase == "word_and_synonyms"
    if not contrast and not erased_too:
        return rows.Concept(chosen.word, chosen.sentences), record
    kept = _kept_path(settings, tested)
    if found := kept and _kept(kept, chosen):
        return found
    listed = [*chosen.synonyms, *chosen.no_relation, *chosen.far, *chosen.mid]
    held_out.assert_disjoint(listed, tested, what="words of concept")
    reader = None
    if "wordnet" in (chosen.synonym_source, chosen.irrelevant_source):
        reader = wordnet.load()
    found = _synonyms(chosen, reader, tested)
    record |= {"synonyms": list(found.words), "synonym_source": found.source}
    if not found.words or not contrast:
        return rows.Concept(chosen.word, chosen.sentences, found.words), record
    words = _irrelevant(chosen, reader, (*tested, *found.words), settings.optim.seed)
    record |= {name: [list(pair) for pair in getattr(words, name)] for name in irrelevant.CLASSES}
    record["irrelevant_source"] = words.source
    made = rows.Concept(chosen.word, chosen.sentences, found.words, words.classes)
    if kept:
        keep_json(kept, {"words": [made.synonyms, *made.irrelevant], "record": record})
    return made, record


def _require_different(chosen: ConceptSettings) -> None:
    """No word of the config is a form of another: it would have two roles."""
    named = [("word", chosen.word)] + [
        (name, word)
        for name in ("synonyms", "no_relation", "far", "mid")
        for word in getattr(chosen, name)
    ]
    for (name, word), (other, before) in itertools.combinations(named, 2):
        if forms.same(word, before):
            raise ValueError(
                f"concept.{other} holds {before!r}, a form of {word!r} in concept.{name}; name one "
                "of them"
            )


def _require_kept_apart(chosen: ConceptSettings) -> None:
    """What erasing goes towards, or leaves alone, holds neither the concept nor a synonym."""
    kept = {"preserve_prompts": chosen.preserve_prompts, "near_prompts": chosen.near_prompts}
    if chosen.anchor == "replaced":
        kept["neutral"] = (chosen.neutral or "",)
    if chosen.anchor == "sentence":
        kept["anchor_sentence"] = (chosen.anchor_sentence or "",)
    for name, texts in kept.items():
        for word in (chosen.word, *chosen.synonyms):
            rows.require_absent(word, texts, setting=f"concept.{name}")


def _kept_path(settings: Settings, tested: Sequence[str]) -> Path | None:
    """Where an endpoint's words are kept: it need not say the same again to a resumed run."""
    chosen = settings.concept
    if settings.data.cache is None or "endpoint" not in (
        chosen.synonym_source,
        chosen.irrelevant_source,
    ):
        return None
    inputs = [dataclasses.asdict(chosen), sorted(tested), settings.optim.seed]
    return cache_file(settings.data.cache, "words", inputs, ".json")


def _kept(path: Path, chosen: ConceptSettings) -> tuple[rows.Concept, Record] | None:
    """What an endpoint said before; None if that isn't there, or can't be read."""
    try:
        if not path.exists():
            return None
        stored = kept_json(path)
        told, *classes = (tuple(words) for words in stored["words"])
        made = rows.Concept(chosen.word, chosen.sentences, told, tuple(classes))
        record = stored["record"]
    except (ValueError, OSError, TypeError, KeyError) as error:
        _log.warning("%s: %s; asking %s again", path, error, chosen.endpoint)
        return None
    _log.info("read the words of %s from %s", chosen.endpoint, path)
    return made, record


def recipe(settings: Settings) -> rows.Recipe:
    """How the settings want rows to be made."""
    chosen, data = settings.concept, settings.data
    neutral = {"replaced": chosen.neutral, "sentence": chosen.anchor_sentence}
    return rows.Recipe(
        shuffles=data.shuffles,
        shuffle=data.shuffle,
        probability=data.shuffle_probability,
        words=data.irrelevant,
        anchor=chosen.anchor,
        neutral=neutral.get(chosen.anchor),
        seed=settings.optim.seed,
    )


def _synonyms(chosen: ConceptSettings, reader: Any, tested: Sequence[str]) -> synonyms.Synonyms:
    sources: dict[str, synonyms.Source] = {}
    if chosen.synonym_source == "wordnet":
        sources["wordnet"] = lambda word: wordnet.synonyms(reader, word, sense=chosen.sense)
    elif chosen.synonym_source == "endpoint":
        sources["endpoint"] = lambda word: synonyms.from_endpoint(_endpoint(chosen), word)
    sources["config"] = lambda word: chosen.synonyms
    return synonyms.find(chosen.word, sources, avoid=tested)


def _irrelevant(
    chosen: ConceptSettings, reader: Any, avoid: Sequence[str], seed: int
) -> irrelevant.IrrelevantWords:
    if chosen.irrelevant_source == "wordnet":
        return irrelevant.from_wordnet(
            reader, chosen.word, sense=chosen.sense, avoid=avoid, seed=seed
        )
    if chosen.irrelevant_source == "endpoint":
        return irrelevant.from_endpoint(_endpoint(chosen), chosen.word, avoid=avoid)
    lists = {name: getattr(chosen, name) for name in irrelevant.CLASSES}
    return irrelevant.from_lists(lists, chosen.word, avoid=avoid)


def _endpoint(chosen: ConceptSettings) -> endpoints.Endpoint:
    return endpoints.Endpoint(
        chosen.endpoint or "", chosen.endpoint_model or "", key_variable=chosen.endpoint_key
    )
