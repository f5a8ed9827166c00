"""The article that a word takes in a sentence: a cat, an hourglass, the Eiffel Tower, Bruce Lee."""

from __future__ import annotations

import functools

from ea_jax.concepts import lists, sentences


def with_article(word: str, kind: str) -> str:
    """A word with the article that it takes as a noun of its kind, if any."""
    return before(word, kind) + word


def before(word: str, kind: str) -> str:
    """`a `, `an `, `the ` or nothing: what goes before a word as a noun.

    Args:
      word: one word or several.
      kind: of `settings.concept.KINDS`.
    """
    parts = word.split()
    if parts[0].lower() in ("a", "an", "the", "my", "his", "her", "two", "three"):
        return ""
    head = head_of(parts)
    proper = all(part[0].isupper() for part in parts if part.lower() not in listed("small"))
    named = proper and not word.isupper()
    if kind in ("brand", "style", "relation") or (kind == "person" and named):
        return ""
    if kind == "place" and named:
        the = "of" in parts or parts[0] == "United" or parts[-1].lower() in listed("the places")
        bare = word.lower() in lists.sections("grammar.txt")["bare places"]
        return "the " if the and not bare else ""
    if named and ("of" in parts or parts[-1].lower() in ("tower", "bridge", "house", "wall")):
        return "the "
    if word.lower() in listed("unique"):
        return "the "
    if _is_plural(head) or _is_mass(head, word):
        return ""
    if kind == "idea" and not {head, head.split("-")[-1]} & listed("counted ideas"):
        return ""
    return sentences.fill("a {}", word).removesuffix(word)


def of_things(state: str) -> bool:
    """Whether a state is one of things and not of people: rusty, not nude."""
    plain = state.lower()
    return (
        plain in listed("states of things")
        or plain in lists.sections("grammar.txt")["things behind"]
    )


def is_participle(phrase: str) -> bool:
    """Whether a relation is told as "holding hands", not as "hold hands"."""
    first = phrase.split()[0].lower()
    return first.endswith("ing") and first not in listed("counted ing")


def participle(verb: str) -> str:
    """A verb in -ing: smile, smiling; swim, swimming."""
    if verb in ("swim", "run", "sit", "hug"):
        verb += verb[-1]
    return f"{verb.removesuffix('e')}ing"


def head_of(parts: list[str]) -> str:
    """The noun that the others describe: of "bunch of grapes" the bunch."""
    for small in ("of", "with", "in", "on", "from", "for", "at"):
        if small in parts[1:]:
            parts = parts[: parts.index(small)]
    return parts[-1].lower()


@functools.cache
def _is_plural(head: str) -> bool:
    if head in listed("plural"):
        return True
    if not head.endswith("s") or len(head) < 4:
        return head in ("people", "children")
    # Its lists are read when first asked, as in `forms`.
    import lemminflect

    lemmas = lemminflect.getAllLemmas(head, upos="NOUN").get("NOUN", ())
    return bool(lemmas) and head not in lemmas


def _is_mass(head: str, word: str) -> bool:
    if head in listed("mass"):
        return True
    ending = head.split("-")[-1]
    if ending.endswith("ing") and ending not in listed("counted ing"):
        return True
    return head.endswith(("ness", "ism")) and " " not in word


@functools.cache
def listed(name: str) -> frozenset[str]:
    """A section of `grammar.txt`."""
    return frozenset(" ".join(lists.sections("grammar.txt")[name]).split())
