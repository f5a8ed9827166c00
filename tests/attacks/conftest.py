"""A bench on a small random pipeline, and a victim."""

from __future__ import annotations

import jax
import pytest
import toy_weights
from toy_bench import LENGTH, Bright, task

from ea_jax import lora
from ea_jax.attacks.bench import Bench
from ea_jax.attacks.trials import Victim
from ea_jax.edits import Edit
from ea_jax.flux.pipeline import Pipeline
from ea_jax.painter import Painter, Sampling
from ea_jax.runtime.fingerprint import fingerprint
from ea_jax.runtime.mesh import make_mesh


@pytest.fixture(scope="module")
def painter(dev_folder):
    pipeline = Pipeline.load(dev_folder, parts=("transformer", "vae"))
    how = Sampling(steps=2, guidance=3.5, resolution=32, batch=4)
    return Painter(
        pipeline,
        mesh=make_mesh({"data": 1}),
        sampling=how,
        fingerprint=fingerprint(pipeline.weights["transformer"]),
    )


@pytest.fixture(scope="module")
def bench(painter, tmp_path_factory):
    return Bench(
        painter,
        task=task("see a cat on ice", "the cat", "my cat sat"),
        own=task("one cat", "a cat by me", first=50),
        text_length=LENGTH,
        detector=Bright(),
        cache=tmp_path_factory.mktemp("cache"),
        seeds=2,
    )


@pytest.fixture(scope="module")
def edited(painter):
    """A victim that a random LoRA has moved far from the base."""
    template = painter.pipeline.template("transformer")
    fresh = lora.init(jax.random.key(0), template, scope="dual_qkv", rank=2)
    tree = jax.tree.map(lambda x: 0.5 * x, toy_weights.random_like(fresh))
    return Victim("edited", Edit(tree), 1.0)
