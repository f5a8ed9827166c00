"""Writes `common.txt`: common words of WordNet with their kinds, synonyms and neighbours.

    python -m ea_jax.concepts.wordnet_subset FOLDER

FOLDER is NLTK data with corpora/wordnet. Neighbours are kept as far as the package's own sentences
name them: nothing else is looked up in this list.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ea_jax.concepts import forms, lists, wordnet
from ea_jax.runtime.run_folder import write_text

FILE = Path(__file__).with_name("common.txt")
# Of these all sorts are listed; of other nouns, verbs and adjectives those that texts use.
_ALL_OF = (
    "dog.n.01 domestic_cat.n.01 big_cat.n.01 musical_instrument.n.01 motor_vehicle.n.01 "
    "furniture.n.01 garment.n.01 edible_fruit.n.01 ball.n.01 weapon.n.01 dish.n.02 vegetable.n.01 "
    "aircraft.n.01 building.n.01 footwear.n.02 headdress.n.01 jewelry.n.01 toy.n.01 "
    "sports_equipment.n.01 beverage.n.01 dessert.n.01 rodent.n.01 primate.n.02 bird_of_prey.n.01 "
    "dinosaur.n.01 mythical_being.n.01 sport.n.01 tool.n.01 boat.n.01"
)
_CONCRETE = ("animal", "artifact", "body", "food", "object", "phenomenon", "plant", "person")
_ABSTRACT = 6  # counts from which a noun of another class is common
_USED = {"n": 1, "v": 6, "a": 6, "s": 6}  # counts from which a word is common
_WORDS = 2  # in a phrase, at most
_SYNONYMS, _SENSES, _LICENCE = 2, 3, 29
_HEAD = """\
# A part of WordNet 3.0, made by `ea_jax.concepts.wordnet_subset`: word | kinds | synonyms |
# neighbours. WordNet's licence:
#
"""


def entries(reader: Any) -> Iterator[str]:
    """Lines of the list, sorted."""
    texts = _texts()
    for word in sorted(_common(reader)):
        senses = wordnet.by_use(reader, word)
        synonyms = [
            name
            for name in wordnet.synonyms(reader, word, sense=senses[0].name())
            if name.isascii() and "," not in name and not forms.mentions(name, word)
        ][:_SYNONYMS]
        near = [
            name
            for name in wordnet.near(reader, word)
            if name not in synonyms and f" {name.lower()} " in texts
        ]
        kinds = wordnet.kinds(reader, word)[:_SENSES]
        yield "|".join([word, ",".join(kinds), ",".join(synonyms), ",".join(near)]).rstrip("|")


def _common(reader: Any) -> set[str]:
    found = set()
    for name in _ALL_OF.split():
        below = reader.synset(name)
        for sense in (below, *below.closure(lambda one: one.hyponyms())):
            found |= {_word(lemma.name()) for lemma in sense.lemmas()}
    for sense in reader.all_synsets():
        pos, kind = sense.pos(), sense.lexname().partition(".")[2]
        least = _USED.get(pos, 0)
        if pos == "n" and kind not in _CONCRETE:
            least = _ABSTRACT
        if least:
            found |= {_word(lemma.name()) for lemma in sense.lemmas() if lemma.count() >= least}
    return {word for word in found if re.fullmatch(r"[a-z][a-z' -]+", word)
            and len(word.split()) <= _WORDS}  # fmt: skip


def _word(lemma: str) -> str:
    return lemma.replace("_", " ")


def _texts() -> str:
    """The package's own sentences, a space between words."""
    texts = (*lists.lines("preserve.txt"), *lists.lines("templates.txt"))
    return f" {' '.join(word for text in texts for word in re.findall('[a-z]+', text.lower()))} "


def _licence(reader: Any) -> str:
    """Princeton's, as it stands before each of WordNet's files."""
    with reader.open("data.noun") as file:
        lines = [file.readline() for _ in range(_LICENCE)]
    return "".join(f"#{re.sub(r'^  *[0-9]+', '', line).rstrip()}\n" for line in lines)


def main(arguments: list[str]) -> None:
    """The command line."""
    reader = wordnet.load(arguments[0])
    write_text(FILE, _HEAD + _licence(reader) + "\n" + "\n".join(entries(reader)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
