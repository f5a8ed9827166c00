"""What is examined: edits as they are named on a command line, and a painter for them."""

from __future__ import annotations

import argparse
import dataclasses

import jax
import numpy as np
import pytest
import toy_weights

from ea_jax import edits, lora
from ea_jax.arguments import Parser
from ea_jax.edits import Edit
from ea_jax.exam import model
from ea_jax.flux.pipeline import Pipeline


@pytest.fixture(scope="module")
def run(tiny_edit_folder):
    return tiny_edit_folder


@pytest.fixture(scope="module")
def tiny_edit_folder(tmp_path_factory, dev_folder):
    folder = tmp_path_factory.mktemp("runs") / "cat=1@home"
    template = Pipeline.load(dev_folder).template("transformer")
    fresh = lora.init(jax.random.key(0), template, scope="dual_qk", rank=2)
    edits.save(Edit(toy_weights.random_like(fresh), concept="cat"), folder)
    return folder


def arguments(*flags: str) -> argparse.Namespace:
    parser = Parser("evaluate toy", "A toy.")
    model.add_arguments(parser)
    return parser.parse_args(["--out=out", *flags])


def test_the_base_comes_first_and_an_edit_is_named_by_its_path_or_by_hand(run):
    found = model.subjects_of([str(run), f"half={run}@0.5", "none"])
    assert [(one.name, one.strength) for one in found] == [
        ("base", None),
        ("cat=1@home", None),
        ("half", 0.5),
    ]
    assert found[0].edit is None
    assert found[2].edit.concept == "cat"


def test_two_edits_of_one_name_and_a_strength_in_words_are_refused(run):
    with pytest.raises(ValueError, match=r"two edits are named .*; write --edit NAME=PATH"):
        model.subjects_of([str(run), str(run)])
    with pytest.raises(ValueError, match=r"'much' is no strength; write PATH@0.5"):
        model.subjects_of([f"{run}@much"])


def test_subjects_paint_with_the_same_seeds_and_strength_0_is_the_base(run, dev_folder, tmp_path):
    given = arguments(
        *(f"--model={dev_folder}", f"--cache={tmp_path}", "--size=32", "--steps=1"),
        *("--text_length=16", "--dtype=float32", "--batch=2"),
    )
    subjects = model.subjects_of([f"on={run}", f"off={run}@0"])
    painter = model.open_painter(given, ["a cat", "a dog"], subjects)
    base, on, off = (
        painter.paint(["a cat", "a dog"], [0, 1], edit=one.edit, strength=one.strength)
        for one in subjects
    )
    assert painter.facts()["model"]["guidance"] == 3.5
    np.testing.assert_array_equal(base, off)
    assert np.abs(base - on).max() > 1e-3
    with pytest.raises(ValueError, match="'a bird' is not among the 2"):
        painter.paint("a bird", [0])
    other = model.Subject("other", dataclasses.replace(subjects[1].edit, base="f00"))
    with pytest.raises(ValueError, match=r"edit 'other' was made on weights with hash f00, and"):
        model.open_painter(given, ["a cat"], [other])
