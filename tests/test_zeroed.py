"""Zeroed columns as an edit: the painter hides a word, no weight changes, no file holds it."""

from __future__ import annotations

import numpy as np
import pytest

from ea_jax import edits
from ea_jax.attacks.canvas import Canvas, Said
from ea_jax.concepts import spans
from ea_jax.concepts.encoding import Encoded, encoder_of
from ea_jax.evaluate import readings
from ea_jax.exam import attacks, model
from ea_jax.exam.model import Subject
from ea_jax.flux.adapters import AdapterError
from ea_jax.flux.pipeline import Pipeline
from ea_jax.painter import Painter, Sampling
from ea_jax.runtime.mesh import make_mesh

LENGTH, PROMPTS, SEEDS = 16, ("a cat", "a dog", "a cat, a dog"), (1, 2, 3)
CAT = edits.zeroed(["cat"])


@pytest.fixture(scope="module")
def painter(dev_folder) -> Painter:
    pipeline = Pipeline.load(dev_folder)
    texts = Encoded.make(
        PROMPTS, **encoder_of(pipeline, text_length=LENGTH, dtype="float32", cache=None)
    )
    sampling = Sampling(steps=1, resolution=32, batch=3)
    return Painter(
        pipeline, mesh=make_mesh({"data": 1}), sampling=sampling, texts=texts, fingerprint="toy"
    )


@pytest.fixture(scope="module")
def base(painter):
    return painter.paint(PROMPTS, SEEDS)


def test_prompts_with_the_word_are_painted_without_it_and_others_as_they_are(painter, base):
    found = painter.paint(PROMPTS, SEEDS, edit=CAT)
    apart = np.abs(found - base).max((1, 2, 3))
    assert apart[0] > 1e-3
    assert apart[2] > 1e-3
    assert apart[1] < 1e-5


def test_at_strength_0_it_is_the_base_bit_for_bit_and_half_of_it_is_between(painter, base):
    none, half, full = (painter.paint(PROMPTS, SEEDS, edit=CAT, strength=s) for s in (0, 0.5, 1))
    np.testing.assert_array_equal(none, base)
    assert 0 < np.abs(half - base).mean() < np.abs(full - base).mean()


def test_an_attacks_canvas_hides_the_word_as_the_painter_does(painter):
    tokenizer = painter.pipeline.t5_tokenizer
    texts = painter._texts
    word_UT = spans.standing(tokenizer, texts.prompts, ["cat"], max_length=LENGTH)
    canvas = Canvas(painter, Said(texts, word_UT), zeroed=True)
    np.testing.assert_allclose(
        canvas.paint(PROMPTS, SEEDS), painter.paint(PROMPTS, SEEDS, edit=CAT), atol=1e-6
    )
    with pytest.raises(AdapterError, match="changes no weights"):
        canvas.paint(PROMPTS, SEEDS, edit=CAT)


def test_in_encoded_prompts_no_word_is_found(painter):
    with pytest.raises(ValueError, match="no word cat can be found in prompts that are encoded"):
        painter.paint(painter.text(PROMPTS), SEEDS, edit=CAT)


def test_what_was_read_of_it_is_not_taken_for_the_base_or_another_word(painter):
    found = [
        readings.conditions(painter, edit, strength)
        for edit, strength in ((None, None), (CAT, None), (CAT, 0.5), (edits.zeroed(["dog"]), None))
    ]
    assert all(one != other for i, one in enumerate(found) for other in found[:i])


@pytest.mark.parametrize(
    "use", [lambda: edits.summed([CAT, CAT]), lambda: edits.save(CAT, "."), CAT.lora]
)
def test_nothing_is_saved_or_added_up(use):
    with pytest.raises(AdapterError, match="columns of cat changes no weights"):
        use()


def test_a_command_names_it_by_its_word(tmp_path, monkeypatch):
    _, first, second = model.subjects_of(["zeroed:traffic light", "half=zeroed:cat@0.5"])
    assert (first.name, first.edit.zeroed) == ("zeroed:traffic light", ("traffic light",))
    assert (first.edit.concept, first.edit.method) == ("traffic light", "zeroed_columns")
    assert (second.name, second.strength, second.edit) == ("half", 0.5, CAT)
    # A folder of that name is a folder.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zeroed:cat").mkdir()
    with pytest.raises(ValueError, match="holds no"):
        model.subjects_of(["zeroed:cat"])


def test_attacks_have_it_as_a_victim_of_their_own():
    with pytest.raises(ValueError, match="zeroed columns are attacked anyway; leave --edit hidden"):
        attacks.victims_of([Subject("base"), Subject("hidden", CAT)])


def test_words_stand_where_they_are_whole_and_nowhere_else(painter):
    tokenizer = painter.pipeline.t5_tokenizer
    found_BT = spans.standing(
        tokenizer, ["a cat", "concatenate", "a dog and a Cat"], ["cat", "dog"], max_length=20
    )
    # Tokens are letters, and a mark before each word.
    assert found_BT.sum(-1).tolist() == [4, 0, 8]
