"""flux-tiny's vocabulary as a lexicon: a closed world, so it knows all that a run may use."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ea_jax.concepts import forms
from ea_jax.concepts.irrelevant import CLASSES, IrrelevantWords
from ea_jax.flux_tiny import vocabulary
from ea_jax.flux_tiny.vocabulary import Concept

KINDS = {
    "object": "thing",
    "character": "person",
    "style": "style",
    "relation": "relation",
    "dress": "state",
}
# A word takes the first three of a class that are neither itself nor near.
_WORDS = {
    "thing": {
        "no_relation": ("key", "moon", "carrot", "fire", "camera"),
        "far": ("shirt", "crown", "drum", "tree", "bicycle"),
        "mid": ("balloon", "donut", "light bulb", "turtle", "umbrella"),
    },
    "person": {
        "no_relation": ("key", "moon", "carrot"),
        "far": ("crown", "shirt", "balloon"),
        "mid": ("Pierrot", "Frosty", "Sherlock Holmes", "Hattori", "Talos", "Fafnir"),
    },
    "style": {
        "no_relation": ("key", "moon", "carrot"),
        "far": ("fire", "crown", "shirt"),
        "mid": ("sketch", "neon", "watercolour", "sepia", "pop art"),
    },
    "relation": {
        "no_relation": ("key", "moon", "carrot"),
        "far": ("run", "sit", "read"),
        "mid": ("shake hands", "meet", "talk", "beside"),
    },
    "state": {
        "no_relation": ("key", "moon", "carrot"),
        "far": ("red", "old", "small"),
        "mid": ("wooden", "standing", "tall"),
    },
}
_EACH = 3


class Vocabulary:
    """What `vocabulary` says of a word, in any case, with hyphens or without."""

    name = "flux-tiny"

    def spelling(self, word: str) -> str | None:
        found = find(word)
        return found.name if found else None

    def kinds(self, word: str) -> Sequence[str]:
        found = find(word)
        return (KINDS[found.kind],) if found else ()

    def words(self) -> Sequence[str]:
        return tuple(vocabulary.CONCEPTS)

    def synonyms(self, word: str) -> Sequence[str]:
        """The one that training may use; the others are held out."""
        found = find(word)
        return found.synonyms[:1] if found else ()

    def near(self, word: str) -> Sequence[str]:
        """The nearest concept in all its words, and the held-out synonyms of the word itself."""
        found = find(word)
        if not found:
            return ()
        words = list(found.synonyms[1:])
        if found.near:
            other = vocabulary.concept(found.near)
            words += [other.name, *other.synonyms]
        if found.kind == "dress":
            # A figure in a dress is dressed.
            words.append("dress")
        return tuple(words)

    def compared(self, word: str, kind: str) -> tuple[str | None, str | None]:
        """A synonym that no training uses, and the nearest concept."""
        del kind
        found = find(word)
        if not found:
            return None, None
        unseen = (*found.held_out, *found.synonyms)
        return (unseen[0] if unseen else None), found.near or None

    def sibling(self, word: str) -> str | None:
        """The nearest concept, where the world names one."""
        found = find(word)
        return (found.near or None) if found else None

    def unknown(self, word: str) -> str:
        """Why a word can't be erased here, and which could be meant."""
        for found in vocabulary.CONCEPTS.values():
            if any(forms.folded(word) == forms.folded(name) for name in found.synonyms):
                return (
                    f"flux-tiny's world knows {word!r} as a synonym of {found.name!r}; erase that"
                )
        names = {forms.folded(name): name for name in vocabulary.CONCEPTS}
        close = [names[key] for key in difflib.get_close_matches(forms.folded(word), names, n=3)]
        hint = f"did you mean {', '.join(map(repr, close))}?" if close else "one is 'apple'"
        return f"flux-tiny's world has no concept {word!r}; {hint}"

    def irrelevant(
        self, word: str, kind: str, *, avoid: Sequence[str], seed: int
    ) -> IrrelevantWords | None:
        del seed
        lists = _WORDS.get(kind, _WORDS["thing"])
        chosen = {
            name: [
                (other, None)
                for other in lists[name]
                if not any(forms.mentions(other, one) for one in (word, *avoid))
            ][:_EACH]
            for name in CLASSES
        }
        if not all(chosen.values()):
            return None
        return IrrelevantWords(
            **{name: tuple(words) for name, words in chosen.items()}, source=self.name
        )


def find(word: str) -> Concept | None:
    """The concept of a name, whatever its case and hyphens; None if the world has none."""
    wanted = forms.folded(word)
    return next((c for c in vocabulary.CONCEPTS.values() if forms.folded(c.name) == wanted), None)
