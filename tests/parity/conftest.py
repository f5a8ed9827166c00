"""What LoRA files are tried on: a pipeline of diffusers, and our shapes of its transformer."""

from __future__ import annotations

import diffusers
import pytest

from ea_jax.flux.transformer import TransformerConfig, abstract_weights


@pytest.fixture(scope="module")
def pipeline(dev_folder):
    """diffusers' own: 3 dual and 3 single blocks, 64 wide."""
    return diffusers.FluxPipeline.from_pretrained(dev_folder)


@pytest.fixture(scope="module")
def weights(pipeline):
    return abstract_weights(TransformerConfig.from_json(dict(pipeline.transformer.config)))
