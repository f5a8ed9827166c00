"""From an experiment's settings to the words a run uses, and a record of where they came from."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convert.disk import FileError, read_json
from ea_jax.concepts import forms, held_out, irrelevant, minors, rows, synonyms
from ea_jax.concepts.lexicon import Phrases, World
from ea_jax.concepts.sources import CAPITALS, Sources
from ea_jax.runtime.cache import cache_file, keep_json, kept_json
from ea_jax.settings import ConceptSettings, Settings

Record = dict[str, Any]
_log = logging.getLogger(__name__)
_NEAR_PROMPTS = 8  # for each word
# Changes when the same settings would give other words.
_VERSION = 2


@dataclasses.dataclass(frozen=True)
class Words:
    """All texts of a run.

    Attributes:
      concepts: what is erased, each with its sentences, synonyms, irrelevant words and anchor.
      preserve: prompts about other things, for L_keep.
      near: prompts about what is nearest to a concept, kept as well.
      shown: rows of the grid.
      record: for the run's folder: words, where they came from, and what was made.
    """

    concepts: tuple[rows.Concept, ...]
    preserve: tuple[str, ...]
    near: tuple[str, ...]
    shown: tuple[str, ...]
    record: Record

    def as_json(self) -> Record:
        """What `of_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def of_json(cls, file: Path) -> Words:
        """Words that a run's folder keeps; FileError if the file holds something else."""
        way_out = "delete it, and the words are chosen again"
        try:
            return _restored(read_json(file, way_out=way_out))
        except (TypeError, KeyError) as error:
            raise FileError(f"{file} holds no words ({error!r}); {way_out}") from None


class _Known(NamedTuple):
    """A word and what sources say of it."""

    word: str
    kind: str
    source: str
    others: tuple[str, ...]
    near: tuple[str, ...]
    synonyms: synonyms.Synonyms

    @property
    def barred(self) -> tuple[str, ...]:
        """What no text may hold that is there to be kept, or to be company."""
        return (self.word, *self.synonyms.words, *self.near)


def words(
    settings: Settings, world: World, *, tested: Sequence[str] = (), contrast: bool = True
) -> Words:
    """The texts of a run: those of the config, and for what it leaves empty, made ones.

    Args:
      settings: of the run.
      world: of its model.
      tested: words that will measure the erasure. A source's are left out; one that the config
        itself names is an error.
      contrast: whether anything reads synonyms and irrelevant words to contrast them.
    Raises:
      ValueError: words that can't be used, an absent WordNet or an endpoint that fails where it was
        asked for by name, or a text to keep that holds the concept or a synonym of it.
    """
    chosen = settings.concept
    _require_different(chosen)
    _require_kept_apart(chosen)
    listed = [*chosen.synonyms, *chosen.no_relation, *chosen.far, *chosen.mid]
    held_out.assert_disjoint(listed, tested, what="words of concept")
    kept = _kept_path(settings, world, tested, contrast)
    if found := kept and _kept(kept, chosen):
        return found
    erased_too = chosen.erase == "word_and_synonyms"
    sources = Sources(chosen, world, asks=contrast or erased_too, seed=settings.optim.seed)
    known = [_known(word, chosen, world, sources, tested) for word in chosen.named]
    made = [_concept(one, known, settings, world, sources, tested, contrast) for one in known]
    barred = [word for one in known for word in one.barred]
    preserve = chosen.preserve_prompts or world.phrases.preserve(barred)
    near = chosen.near_prompts or _near(known, world)
    shown = settings.sample.prompts or _shown(known, world)
    record = {
        "words": [entry for _, entry in made],
        "preserve_prompts": list(preserve),
        "near_prompts": list(near),
        "prompts": list(shown),
        "missing": sources.missing,
    }
    concepts = tuple(concept for concept, _ in made)
    found = Words(concepts, tuple(preserve), tuple(near), tuple(shown), record)
    minors.require_adults(_texts(found))
    if kept and "endpoint" not in sources.missing:
        keep_json(kept, found.as_json())
    return found


def _known(
    word: str, chosen: ConceptSettings, world: World, sources: Sources, tested: Sequence[str]
) -> _Known:
    # A closed world knows a word in its own spelling alone.
    word = (world.lexicon.spelling(word) if world.closed else None) or word
    kind, source, others = sources.kind(word)
    rest = [other for other in chosen.named if not forms.same(other, word)]
    # A synonym that is erased under its own name is no synonym to be contrasted with.
    found = sources.synonyms(word, kind, avoid=(*tested, *rest))
    return _Known(word, kind, source, others, sources.near(word), found)


def _concept(
    one: _Known,
    known: Sequence[_Known],
    settings: Settings,
    world: World,
    sources: Sources,
    tested: Sequence[str],
    contrast: bool,
) -> tuple[rows.Concept, Record]:
    """A concept, and what the record says of it."""
    chosen = settings.concept
    barred = [word for other in known for word in other.barred]
    company = [word for word in barred if word != one.word]
    phrases = _around(one, chosen, world, company)
    erased_too = chosen.erase == "word_and_synonyms"
    read = one.synonyms.words if contrast or erased_too else ()
    contrasted = None
    if contrast and read:
        strict = [word for other in known for word in (other.word, *other.synonyms.words)]
        contrasted = sources.irrelevant(
            one.word, one.kind, avoid=(*tested, *strict), near=[*one.near, *company]
        )
    if contrast and not contrasted:
        _log.warning(
            "no %s of %r from any source: L_rsc is off; give some in concept.%s",
            *(("irrelevant words", one.word, "far") if read else ("synonym", one.word, "synonyms")),
        )
        read = read if erased_too else ()
    record: Record = {
        "word": one.word,
        "kind": one.kind,
        "kind_source": one.source,
        "other_kinds": list(one.others),
        "near": list(one.near),
        "synonyms": list(one.synonyms.words),
        "synonym_source": one.synonyms.source,
    }
    if contrasted:
        for name in irrelevant.CLASSES:
            record[name] = [list(pair) for pair in getattr(contrasted, name)]
        record["irrelevant_source"] = contrasted.source
    record["sentences"] = list(phrases.sentences)
    neutral = {"replaced": phrases.neutral, "sentence": phrases.anchor_sentence}
    record["anchor"] = neutral.get(chosen.anchor, chosen.anchor)
    alone = world.phrases.alone(one.word, one.kind, avoid=company)
    if settings.data.prompts == "word":
        record["prompts"] = list(alone)
    concept = rows.Concept(
        one.word,
        phrases.sentences,
        read,
        contrasted.classes if contrasted else (),
        neutral=neutral.get(chosen.anchor),
        alone=alone,
    )
    return concept, record


def _around(one: _Known, chosen: ConceptSettings, world: World, company: Sequence[str]) -> Phrases:
    """What the config gives, and for the rest what the phrasebook makes."""
    if chosen.sentences and chosen.neutral and chosen.anchor_sentence:
        return Phrases(chosen.sentences, chosen.neutral, chosen.anchor_sentence)
    made = world.phrases.around(one.word, one.kind, avoid=company)
    if not (chosen.sentences or made.sentences):
        raise ValueError(
            f"no sentence can be made around {one.word!r} that holds none of the other words; "
            "give some in concept.sentences"
        )
    return Phrases(
        chosen.sentences or made.sentences,
        chosen.neutral or made.neutral,
        chosen.anchor_sentence or made.anchor_sentence,
    )


def _near(known: Sequence[_Known], world: World) -> tuple[str, ...]:
    """Prompts about the nearest other thing of each word, without any that is erased."""
    erased = [word for one in known for word in (one.word, *one.synonyms.words)]
    made: list[str] = []
    for one in known:
        near = world.lexicon.sibling(one.word)
        if near and not any(forms.mentions(near, word) for word in erased):
            made += world.phrases.around(near, one.kind, avoid=erased).sentences[:_NEAR_PROMPTS]
    return tuple(dict.fromkeys(made))


def _shown(known: Sequence[_Known], world: World) -> tuple[str, ...]:
    """Rows of the grid: of one word all four, of several two each and one of something else."""
    made = []
    for one in known:
        synonym, near = world.lexicon.compared(one.word, one.kind)
        made.append(world.phrases.shown(one.word, one.kind, synonym=synonym, near=near))
    of_each = [row for shown in made for row in (shown if len(known) == 1 else shown[:2])]
    return tuple(dict.fromkeys([*of_each, made[-1][-1]]))


def _texts(found: Words) -> list[str]:
    """Every text of a run, and every word that is put into one."""
    return [
        *(
            text
            for one in found.concepts
            for text in (*rows.plain(one), one.word, *one.synonyms, one.neutral or "")
        ),
        *(word for one in found.concepts for words in one.irrelevant for word in words),
        *found.preserve,
        *found.near,
        *found.shown,
    ]


def report(found: Words) -> None:
    """Says in a line what each word was taken for, and in another which sources gave nothing."""
    for entry in found.record["words"]:
        said = [f"a {entry['kind']} ({entry['kind_source']})"]
        if others := entry["other_kinds"]:
            said[0] += (
                f", though it can be a {' or '.join(others)}: --config.concept.kind={others[0]}"
            )
        if entry["kind_source"] == CAPITALS:
            said[0] += ", as names are; else give --config.concept.kind"
        named = ", ".join(entry["synonyms"]) or "none"
        said.append(f"synonyms: {named} ({entry['synonym_source']})")
        if "irrelevant_source" in entry:
            said.append(f"irrelevant words ({entry['irrelevant_source']})")
        _log.info("%r is %s; %s", entry["word"], *(said[0], "; ".join(said[1:])))
    for name, why in found.record["missing"].items():
        _log.warning("goes on without %s: %s", name, why)


def _require_different(chosen: ConceptSettings) -> None:
    """No word of the config is a form of another: it would have two roles."""
    named = [("words" if chosen.words else "word", word) for word in chosen.named] + [
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
        for word in (*chosen.named, *chosen.synonyms):
            rows.require_absent(word, texts, setting=f"concept.{name}")


def _kept_path(
    settings: Settings, world: World, tested: Sequence[str], contrast: bool
) -> Path | None:
    """Where an endpoint's words are kept: it need not say the same again to a resumed run."""
    chosen = settings.concept
    if settings.data.cache is None or chosen.endpoint is None:
        return None
    inputs = [
        *(_VERSION, world.lexicon.name, contrast, dataclasses.asdict(chosen)),
        *(settings.sample.prompts, sorted(tested), settings.optim.seed),
    ]
    return cache_file(settings.data.cache, "words", inputs, ".json")


def _kept(path: Path, chosen: ConceptSettings) -> Words | None:
    """What an endpoint said before; None if that isn't there, or can't be read."""
    try:
        if not path.exists():
            return None
        found = _restored(kept_json(path))
    except (ValueError, OSError, TypeError, KeyError) as error:
        _log.warning("%s: %s; asking %s again", path, error, chosen.endpoint)
        return None
    _log.info("read the words of %s from %s", chosen.endpoint, path)
    return found


def _restored(stored: Any) -> Words:
    concepts = [
        rows.Concept(
            one["word"],
            tuple(one["prompts"]),
            tuple(one["synonyms"]),
            tuple(tuple(words) for words in one["irrelevant"]),
            neutral=one["neutral"],
            alone=tuple(one["alone"]),
            also=tuple(one["also"]),
            slips=tuple(one["slips"]),
        )
        for one in stored["concepts"]
    ]
    texts: Any = {name: tuple(stored[name]) for name in ("preserve", "near", "shown")}
    return Words(tuple(concepts), record=stored["record"], **texts)


def recipe(settings: Settings) -> rows.Recipe:
    """How the settings want rows to be made."""
    data = settings.data
    return rows.Recipe(
        shuffles=data.shuffles,
        alone=data.prompts == "word",
        shuffle=data.shuffle,
        probability=data.shuffle_probability,
        words=data.irrelevant,
        anchor=settings.concept.anchor,
        seed=settings.optim.seed,
    )
