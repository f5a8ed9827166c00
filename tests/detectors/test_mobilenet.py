"""MobileNetV2 and its files against transformers, on random weights."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import random_flux
import torch
import transformers

from ea_jax.detectors import mobilenet
from ea_jax.detectors.celebrity import Classifier
from ea_jax.detectors.mobilenet import MobileNetConfig


@pytest.mark.parity
@pytest.mark.parametrize(
    ("kind", "finegrained"),
    [
        pytest.param("MobileNetV2Model", True, marks=pytest.mark.slow),
        ("MobileNetV2ForImageClassification", False),
    ],
)
def test_the_network_is_transformers_in_inference(tmp_path, kind, finegrained):
    shape = transformers.MobileNetV2Config(
        image_size=33, depth_multiplier=0.35, finegrained_output=finegrained, num_labels=5
    )
    model = getattr(transformers, kind)(shape).eval()
    generator = torch.Generator().manual_seed(0)
    random_flux.randomise(model, generator)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    model.save_pretrained(tmp_path)
    config = MobileNetConfig.from_json(json.loads((tmp_path / "config.json").read_text()), tmp_path)
    # Rows stay odd, which pads alike on both sides; 40, 20 and 10 columns pad on the right alone.
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 33, 40, 3)).astype(np.float32)
    with torch.no_grad():
        found = model(torch.tensor(pixels.transpose(0, 3, 1, 2)))
    if kind == "MobileNetV2Model":
        weights = mobilenet.load_weights(tmp_path, config, None)
        # Its features through a last layer that only hands them on.
        width = config.features
        eye = {"kernel": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}
        weights, exact = {**weights, "classifier": eye}, found.pooler_output
    else:
        weights, exact = mobilenet.load_weights(tmp_path, config, 5), found.logits
        check_saved(Classifier(weights, config, "ABCDE"), model, tmp_path / "saved")
    assert exact.std() > 0.01
    ours = jax.jit(mobilenet.logits, static_argnums=1)(weights, config, pixels)
    np.testing.assert_allclose(ours, exact, atol=1e-4 * float(exact.abs().max()))


def check_saved(classifier, model, folder):
    """What we save, transformers reads as the model that it was."""
    classifier.save(folder, {})
    again = transformers.MobileNetV2ForImageClassification.from_pretrained(folder)
    assert again.config.id2label == dict(enumerate("ABCDE"))
    assert {*again.state_dict()} == {*model.state_dict()}
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
