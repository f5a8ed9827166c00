"""A word in other spellings: what each does to it, and which of them are held out."""

from __future__ import annotations

import numpy as np
import pytest

from ea_jax.concepts import slips


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def distance(a: str, b: str) -> int:
    """Edits (one letter dropped, added, replaced, or two swapped) between two words."""
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0, :] = range(len(a) + 1), range(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            same = a[i - 1] == b[j - 1]
            table[i, j] = min(
                table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (not same)
            )
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return int(table[-1, -1])


@pytest.mark.parametrize("edits", [1, 2])
def test_a_misspelled_word_is_at_most_that_many_edits_away(edits):
    numbers = rng()
    made = [slips.misspelled("soccer ball", numbers, edits) for _ in range(200)]
    # Two swaps of overlapping pairs count three by this measure.
    assert max(distance("soccer ball", form) for form in made) <= edits + (edits > 1)
    assert len(set(made)) > 50
    assert all(form.count(" ") == 1 for form in made)


def test_the_other_forms_are_what_they_are_called():
    assert slips.repeated("cat", 3) == "cat cat cat"
    assert slips.spaced("soccer ball") == "s o c c e r b a l l"
    assert all("cat" in slips.affixed("cat", rng()) for _ in range(20))
    form = slips.look_alike("cat", rng())
    assert form != "cat"
    assert len(form) == 3
    assert slips.look_alike("why", rng()) == "why"  # no letter of it has a look-alike


def test_no_random_form_that_trains_is_held_out_or_another_word():
    made = slips.trained("cat", rng(), count=40, avoid={"cats", "cut"}.__contains__)
    fixed = {"CAT", "Cat", "c a t", "cat cat", "cat cat cat"}
    assert fixed < set(made)
    random = set(made) - fixed
    assert len(random) > 15
    assert not any(slips.held_out(form) for form in random)
    assert not {"cats", "cut", "cat"} & set(made)
    numbers = rng()
    tested = {slips.drawn("cat", slips.misspelled, numbers, held=True) for _ in range(60)}
    assert len(tested) > 20
    assert not tested & set(made)


def test_a_word_without_a_form_of_its_kind_has_none():
    assert slips.drawn("why", slips.look_alike, rng(), held=True) is None


def test_the_same_seed_gives_the_same_forms():
    assert slips.trained("kiss", rng()) == slips.trained("kiss", rng())
