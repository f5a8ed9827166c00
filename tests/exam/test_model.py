"""What is examined: edits as they are named on a command line, and a painter for them."""

from __future__ import annotations

import argparse
import dataclasses
import shutil

import jax
import numpy as np
import pytest
import toy_weights

from ea_jax import edits, lora
from ea_jax.arguments import Parser
from ea_jax.edits import Edit
from ea_jax.evaluate import readings, worlds
from ea_jax.exam import model, several
from ea_jax.flux.pipeline import Pipeline
from ea_jax.painter import sampled


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


@pytest.fixture
def on_devices(monkeypatch, tmp_path):
    """Opens flux-tiny's painter where so many devices are."""
    here = jax.devices()

    def open_on(count: int, prompts, batch: int, tensor: int = 1):
        monkeypatch.setattr(jax, "devices", lambda: here[:count])
        monkeypatch.setattr(jax, "local_device_count", lambda: count)
        given = arguments(
            f"--cache={tmp_path}", "--steps=2", f"--batch={batch}", f"--tensor={tensor}"
        )
        return model.open_painter(given, prompts, [])

    return open_on


def test_what_cannot_be_painted_is_told_before_anything_is_made(dev_folder):
    given = arguments(f"--model={dev_folder}", "--tensor=3", "--size=64")
    with pytest.raises(ValueError, match=r"tensor.* 3"):
        model.require_sampling(given)
    model.require_sampling(arguments(f"--model={dev_folder}", "--tensor=2", "--size=64"))


def test_flux_tiny_s_usual_values_are_those_of_a_folder_with_its_judge(tmp_path, dev_folder):
    shutil.copytree(Pipeline("flux-tiny").folder / "judge", tmp_path / "judge")
    tiny, merged, other = (
        model._how(arguments(f"--model={where}")) for where in ("flux-tiny", tmp_path, dev_folder)
    )
    assert tiny == merged
    assert (tiny["size"], other["size"]) == (64, 512)


@pytest.mark.slow
def test_batches_on_four_devices_are_read_as_on_one(on_devices):
    task, detector = worlds.task_of("flux-tiny", "cat", pictures=2)
    probes = task.probes[:6]
    prompts = several.prompts_of(probes)
    alone, split = (on_devices(count, prompts, batch=4) for count in (1, 4))
    assert (alone.mesh.size, split.mesh.size) == (1, 4)
    pictures = []
    for painter in (alone, split):
        pictures.append(painter.paint(prompts, range(len(prompts))))
        [(z_BhwC, _), *_] = sampled(
            *(painter.pipeline, painter.text(prompts[:4]), range(4)),
            **{"sampling": painter.sampling, "mesh": painter.mesh, "lora": None},
        )
        assert len(z_BhwC.sharding.device_set) == painter.mesh.size
        assert z_BhwC.addressable_shards[0].data.shape[0] == 4 / painter.mesh.size
    np.testing.assert_allclose(*pictures, atol=1e-4)
    one, four = (
        readings.read(painter, probes, detector, name="base") for painter in (alone, split)
    )
    assert [(a.seen, a.valid) for a in one] == [(b.seen, b.valid) for b in four]


@pytest.mark.slow
def test_two_devices_that_share_a_model_paint_what_one_does(on_devices):
    alone, shared = (
        on_devices(count, ["a cat", "a dog"], batch=2, tensor=count) for count in (1, 2)
    )
    kernel = shared.pipeline.weights["transformer"]["transformer_blocks"][0]["attn"]["to_q"]
    assert kernel["kernel"].addressable_shards[0].data.size == kernel["kernel"].size / 2
    pictures = [painter.paint(["a cat", "a dog"], [0, 1]) for painter in (alone, shared)]
    np.testing.assert_allclose(*pictures, atol=1e-4)


def test_as_many_devices_paint_as_divide_a_batch_and_several_hosts_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 6)
    assert [model._mesh_for(batch, 1).size for batch in (1, 4, 6, 8, 9)] == [1, 4, 6, 4, 3]
    # Two share a model: three copies, of which one serves a batch of four alone.
    for batch, shape in ((4, (2, 1, 2)), (6, (3, 1, 2)), (1, (1, 1, 2))):
        assert tuple(model._mesh_for(batch, 2).shape.values()) == shape
    with pytest.raises(ValueError, match="needs 16 devices and 8 are here"):
        model._mesh_for(1, 16)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="one machine, and 2 hosts run it; start it on one"):
        model._mesh_for(4, 1)
