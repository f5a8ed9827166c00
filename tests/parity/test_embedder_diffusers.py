"""The embedder's LoRA in diffusers: one adapted layer, and our picture."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from test_lora_diffusers import LENGTH, PROMPTS, noise, paint, paint_theirs, theirs

from configs import soccer
from ea_jax import edits
from ea_jax import settings as sections
from ea_jax.concepts import bank, rows
from ea_jax.flux.pipeline import Pipeline
from ea_jax.methods import embedder
from ea_jax.methods.forward import forward_of
from ea_jax.methods.ready import Ready
from ea_jax.runtime.mesh import make_mesh

pytestmark = pytest.mark.parity


def test_diffusers_paints_our_picture_with_a_closed_forms_file(dev_folder, tmp_path):
    ours = Pipeline.load(dev_folder)

    def encode(prompts):
        text, _ = ours.encode(prompts, max_length=LENGTH)
        return text.t5_BTD, text.pooled_BD

    made = bank.build(
        [rows.Concept("ball", ("a {}", "a red {}, on grass"))],
        rows.Recipe(shuffles=2),
        preserve=("two dogs",),
        encode=encode,
        tokenizer=ours.t5_tokenizer,
        max_length=LENGTH,
        encoder="random",
    )
    run = sections.from_config(soccer.get_config("tiny+embedder"))
    forward = forward_of(run, ours.transformer_config, (2, 2), (1.0, 0.0))
    weights = ours.weights["transformer"]
    mesh = make_mesh({}, jax.devices()[:1])
    method = embedder.make(Ready(run, mesh, forward, weights, made, {}, "base", "hash"))
    edits.save(method.edit({}, weights), tmp_path)
    loaded = edits.load(tmp_path)
    pipeline = theirs(dev_folder)
    pipeline.load_lora_weights(tmp_path)
    adapted = [name for name, _ in pipeline.transformer.named_modules() if name.endswith(".lora_A")]
    assert adapted == ["context_embedder.lora_A"]
    picture = paint(ours, lora=loaded.lora())
    assert np.abs(picture[0] - paint(ours)[0]).max() > 0.01, PROMPTS[0]
    np.testing.assert_allclose(picture, paint_theirs(pipeline, noise(ours)), atol=1e-3)
