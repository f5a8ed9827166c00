"""Measuring an edit: base and erased paint the same probes, and a detector reads both."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import toy_weights

from ea_jax import lora
from ea_jax.concepts.encoding import Encoded
from ea_jax.edits import Edit
from ea_jax.evaluate import metrics, results
from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.probes import Probe, Reading
from ea_jax.evaluate.task import Task
from ea_jax.flux.pipeline import Pipeline
from ea_jax.painter import Painter, Sampling
from ea_jax.runtime.mesh import make_mesh

PROMPTS = ["a cat", "a dog", "a red cat"]
COUNTED = (metrics.asked("cats", "low", "cats that are there"), metrics.VALID)
PROBES = tuple(
    Probe(prompt, seed, (("cats", frozenset({("object", "cat")})),) if "cat" in prompt else ())
    for seed, prompt in enumerate(PROMPTS)
)
TASK = Task("toy", "cat", PROBES, COUNTED, ("kitten",))


class Same:
    """Sees a cat in each picture that is, to the bit, one of those given."""

    name, version = "same", "1"

    def __init__(self, pictures):
        self.pictures, self.asked = pictures, []

    def __call__(self, images, prompts):
        self.asked += prompts
        seen = [any(np.array_equal(image, one) for one in self.pictures) for image in images]
        return [
            Reading(frozenset({("object", "cat")} if yes else ()), True, {"mean": float(i.mean())})
            for yes, i in zip(seen, images, strict=True)
        ]


@pytest.fixture(scope="module")
def painter(dev_folder) -> Painter:
    how = Sampling(steps=1, resolution=32, batch=2)
    pipeline = Pipeline.load(dev_folder)
    text, _ = pipeline.encode(PROMPTS, max_length=16)
    texts = Encoded(tuple(PROMPTS), np.asarray(text.t5_BTD), np.asarray(text.pooled_BD))
    return Painter(pipeline, mesh=make_mesh({}), sampling=how, texts=texts, fingerprint="f00")


def edit_of(painter, kind):
    template = painter.pipeline.template("transformer")
    fresh = lora.init(jax.random.key(0), template, scope="single", rank=2)
    shape = template["context_embedder"]["kernel"].shape
    kernels = {"context_embedder": {"kernel": np.random.default_rng(0).normal(size=shape)}}
    adapters = toy_weights.random_like(fresh)
    return {"adapters": Edit(adapters), "kernels": Edit(deltas=kernels)}.get(
        kind, Edit(adapters, kernels)
    )


@pytest.mark.parametrize("kind", ["adapters", "kernels", "both"])
def test_each_kind_of_edit_is_measured_at_its_strength(painter, kind):
    detector = Same(painter.paint(PROMPTS, range(3)))
    edit = edit_of(painter, kind)
    found = results.measure(painter, edit, TASK, detector)
    assert found.base == {"cats": Rate(2, 2), "valid": Rate(3, 3)}
    assert found.erased == {"cats": Rate(0, 2), "valid": Rate(3, 3)}
    assert (found.metrics, found.detector) == (COUNTED, "same")
    assert detector.asked == PROMPTS * 2
    off = results.measure(painter, edit, TASK, detector, strength=0.0)
    assert off.erased == off.base


def test_the_base_is_read_once_and_scores_are_kept(painter, tmp_path, caplog):
    detector, edit = Same(painter.paint(PROMPTS, range(3))), edit_of(painter, "kernels")
    first = results.measure(painter, edit, TASK, detector, cache=tmp_path)
    second = results.measure(painter, edit, TASK, detector, cache=tmp_path)
    assert (first.base, first.erased) == (second.base, second.erased)
    assert len(detector.asked) == 9
    kept = results._base_readings(painter, TASK, detector, tmp_path)
    assert kept == results._base_readings(painter, TASK, detector, None)
    assert all(0 < reading.scores["mean"] < 1 for reading in kept)
    # One that is damaged is made again.
    (file,) = tmp_path.glob("readings-*.json")
    file.write_text("[]")
    assert results.measure(painter, edit, TASK, detector, cache=tmp_path).base == first.base
    assert "painting the base again" in caplog.text
