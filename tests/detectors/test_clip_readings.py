"""CLIP's rules, by vectors made by hand: a picture's class, and its score."""

from __future__ import annotations

import numpy as np
import pytest

from ea_jax.detectors import class_sets
from ea_jax.detectors.class_sets import ClassSet
from ea_jax.detectors.clip_readings import ClipScore, ZeroShot

PETS = ClassSet("pet", "a photo of a {}", ("cat", "dog", "hen"))
TEXTS = {
    "a photo of a cat": (1, 0, 0),
    "a photo of a dog": (0, 1, 0),
    "a photo of a hen": (0.6, 0.8, 0),
}


class ByHand:
    """A CLIP whose pictures are one pixel: their vector."""

    version = "by hand"

    def picture_vectors(self, images_BHWC):
        return np.asarray(images_BHWC, np.float64)[:, 0, 0]

    def text_vectors(self, prompts):
        return np.array([TEXTS[prompt] for prompt in prompts], np.float64)


def pictures(*vectors):
    return np.array(vectors, np.float64)[:, None, None]


def test_a_picture_s_class_has_the_highest_cosine():
    detector = ZeroShot(ByHand(), PETS)
    # Cosines 0.8, 0.6, 0.96: nearest to the third, though not on any axis; then all negative.
    found = detector(pictures((0.8, 0.6, 0), (-1, 0, 0)), ["anything", "painted for a cat"])
    assert [reading.seen for reading in found] == [{("pet", "hen")}, {("pet", "dog")}]
    assert found[0].scores == pytest.approx({"cat": 0.8, "dog": 0.6, "hen": 0.96})
    assert all(reading.valid for reading in found)
    assert detector.name == "clip_pet"


def test_the_score_is_a_hundred_times_the_cosine_with_the_picture_s_own_prompt_and_never_below_0():
    found = ClipScore(ByHand())(
        pictures((0.8, 0.6, 0), (0.8, 0.6, 0), (-1, 0, 0)),
        ["a photo of a cat", "a photo of a hen", "a photo of a cat"],
    )
    assert [reading.scores["clip_score"] for reading in found] == pytest.approx([80, 96, 0])
    assert all(reading.seen == set() and reading.valid for reading in found)
    assert ClipScore(ByHand())(pictures((1, 0, 0))[:0], []) == []


def test_other_classes_or_another_template_are_another_version():
    others = (
        ClassSet("pet", "a photo of a {}", ("cat", "dog")),
        ClassSet("pet", "a drawing of a {}", PETS.labels),
    )
    versions = {ZeroShot(ByHand(), classes).version for classes in (PETS, *others)}
    assert len(versions) == 3


def test_the_paper_s_classes_are_ten_a_category():
    assert {name: len(classes.labels) for name, classes in class_sets.TABLE_6.items()} == {
        "entity": 10,
        "abstraction": 10,
        "relationship": 10,
    }
    assert class_sets.ENTITY.prompts[0] == "A photo of Fruit"
    assert class_sets.ABSTRACTION.prompts[3] == "An Art in the style of Vincent Van Gogh"
    assert class_sets.RELATIONSHIP.prompts[1] == "a man Kiss a woman"


@pytest.mark.parametrize(
    ("template", "labels", "said"),
    [
        ("a photo", ("cat", "dog"), "'a photo' has to hold {} once"),
        ("{} {}", ("cat", "dog"), "has to hold {} once"),
        ("a {}", ("cat",), "'pet' needs two classes at least"),
        ("a {}", ("cat", "dog", "cat"), "'pet' holds 'cat' twice"),
    ],
)
def test_classes_that_say_nothing_are_an_error(template, labels, said):
    with pytest.raises(ValueError, match=said):
        ClassSet("pet", template, labels)
