"""The package's own word lists as a lexicon: names.txt, and common words from WordNet.

`common.txt` is a small part of WordNet 3.0, under Princeton's licence: so the kind of a common word
is known where WordNet isn't installed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from ea_jax.concepts import articles, flux_phrases, forms, lists
from ea_jax.concepts.irrelevant import CLASSES, IrrelevantWords
from ea_jax.settings.concept import KINDS

_EACH = 3
_FAR_FROM = ("without", "like", "instead of", "because of", "despite")
_PLACED = ("near", "behind", "below", "across from", "beside", "above")
# By kind, for L_rsc: a word takes the first three of each class that aren't its own or near.
_WORDS = {
    "no_relation": ("cloud", "spoon", "carpet", "candle", "stone", "paper"),
    "far": {
        "thing": ("shirt", "flag", "window", "river", "lamp", "bread"),
        "animal": ("forest", "basket", "river", "fence", "shirt", "moon"),
        "person": ("cinema", "stage", "costume", "window", "letter", "street"),
        "brand": ("market", "paper", "bottle", "street", "window", "coin"),
        "style": ("museum", "frame", "brush", "window", "letter", "stage"),
        "place": ("river", "ticket", "suitcase", "clock", "flag", "camera"),
        "relation": ("sleep", "read", "cook", "work", "sing", "swim"),
        "relation: things": _FAR_FROM,
        "relation: inside": _FAR_FROM,
        "relation: among": _FAR_FROM,
        "state": ("tall", "colorful", "foreign", "quiet", "famous", "clever"),
        "idea": ("history", "weather", "music", "geometry", "trade", "cooking"),
    },
    "mid": {
        "thing": ("chair", "basket", "helmet", "bottle", "clock", "boat"),
        "animal": ("beetle", "tree", "flower", "crab", "toy robot", "eagle"),
        "person": ("an actor", "a dancer", "an athlete", "a painter", "a soldier", "a teacher"),
        "brand": ("Acme", "Globex", "Initech", "Contoso", "Umbrella", "Hooli"),
        "style": ("poster", "documentary", "print", "photograph", "tapestry", "diagram"),
        "place": ("a harbor", "a small town", "a mountain lake", "a train station", "an island"),
        "relation": ("meet", "talk", "smile", "walk", "wait", "stand"),
        "relation: things": _PLACED,
        "relation: inside": _PLACED,
        "relation: among": _PLACED,
        "state": ("elegant", "painted", "imaginary", "standing", "tired"),
        "idea": ("sport", "politics", "friendship", "travel", "work", "noise"),
    },
}


class Entry(NamedTuple):
    """What a list says of a word."""

    word: str
    kinds: tuple[str, ...]
    synonyms: tuple[str, ...]
    near: tuple[str, ...]
    sibling: str | None = None


class Package:
    """The lists that come with the package."""

    name = "package"

    def spelling(self, word: str) -> str | None:
        found = _find(word)
        return found.word if found else None

    def kinds(self, word: str) -> Sequence[str]:
        """Of names first; of the common word that is spelled so too, afterwards."""
        both = (_find(word), _common().get(forms.folded(word)))
        return tuple(dict.fromkeys(kind for found in both if found for kind in found.kinds))

    def words(self) -> Sequence[str]:
        return tuple(entry.word for listed in (_names(), _common()) for entry in listed.values())

    def synonyms(self, word: str) -> Sequence[str]:
        """The first alone: a second is for the grid, and to look at what was not trained."""
        found = _find(word)
        return found.synonyms[:1] if found else ()

    def near(self, word: str) -> Sequence[str]:
        found = _find(word)
        return (*found.synonyms[1:], *found.near) if found else ()

    def compared(self, word: str, kind: str) -> tuple[str | None, str | None]:
        found = _find(word)
        synonyms = found.synonyms if found else ()
        wanted = flux_phrases.section(word, kind)
        near = [
            one
            for one in (found.near if found else ())
            if not _is_one_of(one, (word, *synonyms))
            and (entry := _find(one))
            and flux_phrases.section(one, entry.kinds[0]) == wanted
        ]
        other = self.sibling(word) or (near[0] if near else None)
        return (synonyms[-1] if synonyms else None), other

    def sibling(self, word: str) -> str | None:
        found = _find(word)
        return found.sibling if found else None

    def unknown(self, word: str) -> str:
        return (
            f"no source knows {word!r}, so its sentences can't be made; give its kind, one of "
            f"{list(KINDS)}, like --config.concept.kind=thing"
        )

    def irrelevant(
        self, word: str, kind: str, *, avoid: Sequence[str], seed: int
    ) -> IrrelevantWords | None:
        del seed
        chosen = {}
        for name in CLASSES:
            listed = _WORDS[name]
            words = listed
            if isinstance(listed, dict):
                words = listed.get(flux_phrases.section(word, kind)) or listed[kind]
            verbs = flux_phrases.section(word, kind) == "relation: people"
            if verbs and name != "no_relation" and articles.is_participle(word):
                words = [articles.participle(other) for other in words]
            free = [other for other in words if not _is_one_of(other, (word, *avoid))]
            chosen[name] = tuple((other, None) for other in free[:_EACH])
        return IrrelevantWords(**chosen, source=self.name) if all(chosen.values()) else None


def listed_synonyms(word: str) -> Sequence[str]:
    """All synonyms that the package's lists have of a word, those of training first."""
    found = _find(word)
    return found.synonyms if found else ()


def _is_one_of(word: str, others: Sequence[str]) -> bool:
    return any(forms.mentions(word, other) for other in others)


def _find(word: str) -> Entry | None:
    key, low = " ".join(word.split()), forms.folded(word)
    return _names().get(key) or _folded().get(low) or _common().get(low)


@functools.cache
def _names() -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for kind, listed in lists.sections("names.txt").items():
        for line in listed:
            entry = _entry(line, (kind,))
            if before := found.get(entry.word):
                entry = before._replace(kinds=(*before.kinds, kind))
            found[entry.word] = entry
    return found


@functools.cache
def _folded() -> dict[str, Entry]:
    """Names by their plain form; where a common word is spelled so too, only names in its case."""
    return {
        forms.folded(name): entry
        for name, entry in _names().items()
        if name.islower() or forms.folded(name) not in _common()
    }


@functools.cache
def _common() -> dict[str, Entry]:
    found = {}
    for line in lists.lines("common.txt"):
        word, kinds, rest = (*line.split("|", 2), "")[:3]
        found[forms.folded(word)] = _entry(f"{word}|{rest}", tuple(kinds.split(",")))
    return found


def _entry(line: str, kinds: tuple[str, ...]) -> Entry:
    cells = [*(cell.strip() for cell in line.split("|")), "", "", ""]
    word, synonyms, near, sibling = cells[:4]
    listed = [
        tuple(one.strip() for one in cell.split(",") if one.strip()) for cell in (synonyms, near)
    ]
    return Entry(word, kinds, listed[0], listed[1], sibling or None)
