"""flux-tiny's text encoders are what transformers reads from their folders."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
import transformers

import convert.diffusers
from ea_jax.flux import clip, t5
from ea_jax.flux_tiny.training import text_stage

pytestmark = pytest.mark.parity


def test_t5_folder_gives_the_same_outputs_padding_included(tmp_path):
    shape = dataclasses.replace(text_stage.T5_SHAPE, vocab_size=40)
    weights = t5.init_weights(shape, jax.random.key(0))
    config = text_stage.t5_json(shape)
    convert.diffusers.save(weights, tmp_path, "text_encoder_2", dtype=np.float32, config=config)
    model = transformers.T5EncoderModel.from_pretrained(tmp_path / "text_encoder_2")
    ids = np.array([[5, 6, 39, 1, 0, 0, 0, 0], [7, 1, 0, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids))[0].numpy()
    np.testing.assert_allclose(t5.encode(weights, shape, ids), theirs, atol=1e-4)


def test_clip_folder_gives_the_same_pooled_text(tmp_path):
    tokenizer = SimpleNamespace(bos_token_id=38, eos_token_id=39, pad_token_id=39)
    shape = dataclasses.replace(text_stage.CLIP_SHAPE, vocab_size=40, eos_token_id=39)
    weights = clip.init_weights(shape, jax.random.key(0))
    config = text_stage.clip_json(shape, tokenizer)
    convert.diffusers.save(weights, tmp_path, "text_encoder", dtype=np.float32, config=config)
    model = transformers.CLIPTextModel.from_pretrained(tmp_path / "text_encoder")
    ids = np.array([[38, 5, 6, 39, 39, 39], [38, 39, 39, 39, 39, 39]])
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids)).pooler_output.numpy()
    np.testing.assert_allclose(clip.pool(weights, shape, ids), theirs, atol=1e-4)
