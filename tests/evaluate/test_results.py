"""Measuring an edit: base and erased paint the same probes, and a detector reads both."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import toy_weights

from configs.soccer import get_config
from ea_jax import edits, lora
from ea_jax.concepts.encoding import Encoded
from ea_jax.edits import Edit
from ea_jax.evaluate import metrics, outputs, readings, results
from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.probes import Probe, Reading
from ea_jax.evaluate.task import Task
from ea_jax.flux import parts
from ea_jax.flux.pipeline import Pipeline
from ea_jax.painter import Painter, Sampling
from ea_jax.runtime.mesh import make_mesh
from ea_jax.settings import from_config

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
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kernels = {"context_embedder": {"kernel": kernel}}
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


def test_pictures_are_read_once_and_scores_are_kept(painter, tmp_path, caplog):
    detector, edit = Same(painter.paint(PROMPTS, range(3))), edit_of(painter, "kernels")
    first = results.both_readings(painter, edit, TASK, detector, cache=tmp_path)
    assert first == results.both_readings(painter, edit, TASK, detector, cache=tmp_path)
    assert len(detector.asked) == 6
    assert all(0 < one.scores["mean"] < 1 for read in first.values() for one in read)
    assert first == results.both_readings(painter, edit, TASK, detector)
    # Another strength paints other pictures; so does another edit.
    half = results.both_readings(painter, edit, TASK, detector, strength=0.5, cache=tmp_path)
    other = edit_of(painter, "adapters")
    another = results.both_readings(painter, other, TASK, detector, cache=tmp_path)
    assert len(detector.asked) == 6 + 6 + 3 + 3
    assert half["base"] == another["base"] == first["base"]
    scores = [read["erased"][0].scores["mean"] for read in (first, half, another)]
    assert len(set(scores)) == 3


def test_an_edit_and_the_vae_are_hashed_once_however_often_pictures_are_read(
    painter, tmp_path, monkeypatch
):
    hashed = []
    for module in (edits, parts):
        real = module.fingerprint
        monkeypatch.setattr(
            module, "fingerprint", lambda tree, real=real: hashed.append(1) or real(tree)
        )
    detector, edit = Same([]), edit_of(painter, "both")
    painter.pipeline.drop("vae")
    for name in ("once", "again"):
        readings.read(painter, PROBES, detector, name=name, edit=edit, cache=tmp_path)
    assert len(hashed) == 2
    assert dataclasses.replace(edit, strength=0.5).fingerprint == edit.fingerprint
    assert len(hashed) == 3


def test_a_killed_evaluation_goes_on_and_paints_a_damaged_line_again(painter, tmp_path, caplog):
    detector, edit = Same(painter.paint(PROMPTS, range(3))), edit_of(painter, "kernels")

    class Dies(Same):
        def __call__(self, images, prompts):
            if self.asked:
                raise KeyboardInterrupt
            return super().__call__(images, prompts)

    dies = Dies(detector.pictures)
    with pytest.raises(KeyboardInterrupt):
        results.measure(painter, edit, TASK, dies, cache=tmp_path)
    assert dies.asked == PROMPTS[:2]
    first = results.measure(painter, edit, TASK, detector, cache=tmp_path)
    assert detector.asked == PROMPTS[2:] + PROMPTS
    # The last line of one file is cut short.
    file = min(tmp_path.glob("readings-*.jsonl"))
    file.write_bytes(file.read_bytes()[:-20])
    for damaged in (1, 1):
        assert results.measure(painter, edit, TASK, detector, cache=tmp_path) == first
        assert f"{damaged} damaged lines" in caplog.text
    assert len(detector.asked) == 5


def test_numbers_are_those_without_a_cache(painter, tmp_path):
    detector, edit = Same(painter.paint(PROMPTS, range(3))), edit_of(painter, "both")
    plain = results.measure(painter, edit, TASK, detector)
    assert results.measure(painter, edit, TASK, detector, cache=tmp_path) == plain
    assert results.measure(painter, edit, TASK, detector, cache=tmp_path) == plain


@pytest.mark.parametrize(
    ("strength", "neutral", "said"),
    [(1.0, None, False), (0.0, None, True), (0.0, "dog", False)],
    ids=["gone", "left", "left in spite of an anchor"],
)
def test_where_much_is_left_the_results_name_the_way_out(
    painter, tmp_path, strength, neutral, said
):
    is_cat = (("Acc_e", frozenset({("object", "cat")})),)
    probes = tuple(Probe(prompt, seed, is_cat) for seed, prompt in enumerate(PROMPTS))
    task = dataclasses.replace(TASK, probes=probes, metrics=(metrics.CONCEPT,))
    config = get_config()
    config.data.cache = None
    if neutral:
        config.concept.anchor, config.concept.neutral = "replaced", neutral
    edit = dataclasses.replace(edit_of(painter, "kernels"), strength=strength)
    detector = Same(painter.paint(PROMPTS, range(3)))
    settings = from_config(config)
    outputs.write_results(tmp_path, painter, settings, edit, tasks=[task], detector=detector)
    assert ("concept.neutral" in (tmp_path / "results.md").read_text()) == said
