"""VAE, CLIP and T5 against diffusers and transformers, on random weights that nothing hides in."""

from __future__ import annotations

import json

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import convert.diffusers
from ea_jax.flux import clip, t5, vae

pytestmark = pytest.mark.parity


def randomise(model, *, matrices: float, vectors: float):
    """Weights, biases and norms all far from what they start as."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=matrices if parameter.ndim > 1 else vectors)
    return model.eval()


def load(model, part, module, config_class, folder):
    model.save_pretrained(folder / part)
    config = config_class.from_json(json.loads((folder / part / "config.json").read_text()))
    return config, convert.diffusers.load(module.abstract_weights(config), folder, part)


def furthest(ours, theirs) -> float:
    """Largest difference, relative to the largest value."""
    ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def spread(rough, exact) -> float:
    """Root mean square of the difference, relative to the exact values'."""
    rough, exact = np.asarray(rough, np.float32), np.asarray(exact, np.float32)
    return float(np.sqrt(np.square(rough - exact).mean() / np.square(exact).mean()))


@pytest.fixture(scope="module")
def vaes(tmp_path_factory):
    model = diffusers.AutoencoderKL(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=8,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    randomise(model, matrices=0.12, vectors=0.3)
    return model, *load(model, "vae", vae, vae.VaeConfig, tmp_path_factory.mktemp("vae"))


# Odd sides too: the encoder pads right and below alone.
@pytest.mark.parametrize(
    "size",
    [(30, 45), *(pytest.param(size, marks=pytest.mark.slow) for size in ((64, 64), (33, 17)))],
)
def test_the_vae_encodes_and_decodes_as_diffusers_does(vaes, size):
    model, config, weights = vaes
    images = np.random.default_rng(0).uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    with torch.no_grad():
        found = model.encode(torch.tensor(images).permute(0, 3, 1, 2)).latent_dist
        decoded = model.decode(found.mean).sample.permute(0, 2, 3, 1)
    mean, log_variance = vae.encode(weights, config, images)
    assert furthest(mean, found.mean.permute(0, 2, 3, 1)) < 1e-4
    assert furthest(log_variance, found.logvar.permute(0, 2, 3, 1)) < 1e-4
    z_BhwC = found.mean.permute(0, 2, 3, 1).numpy()
    assert furthest(vae.decode(weights, config, z_BhwC), decoded) < 1e-4


# 2 is FLUX's old config: the end token is the largest id. Any other value is looked for.
@pytest.mark.parametrize("end", [2, 98])
def test_clip_pools_at_the_same_token(tmp_path, end):
    shape = transformers.CLIPTextConfig(
        vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=77, bos_token_id=0, eos_token_id=end,
    )  # fmt: skip
    model = randomise(transformers.CLIPTextModel(shape), matrices=0.2, vectors=0.5)
    config, weights = load(model, "text_encoder", clip, clip.ClipConfig, tmp_path)
    ids = np.random.default_rng(1).integers(3, 97, (3, 20))
    ids[0, 7:], ids[1, 12], ids[2, -1] = 98, 98, 98
    with torch.no_grad():
        exact = model(torch.tensor(ids)).pooler_output
        rough = model.to(torch.bfloat16)(torch.tensor(ids)).pooler_output.float()
    assert furthest(clip.pool(weights, config, ids), exact) < 1e-4
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), weights)
    assert spread(clip.pool(half, config, ids), exact) < 1.5 * spread(rough, exact)


# Beyond 128 tokens all distances to one side share a bucket of T5's position bias.
@pytest.mark.parametrize("length", [5, 300])
def test_t5_gives_the_same_outputs(tmp_path, length):
    shape = transformers.T5Config(
        vocab_size=120, d_model=64, d_kv=16, d_ff=96, num_layers=3, num_heads=4,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    model = randomise(transformers.T5EncoderModel(shape), matrices=0.2, vectors=0.5)
    config, weights = load(model, "text_encoder_2", t5, t5.T5Config, tmp_path)
    ids = np.random.default_rng(2).integers(0, 120, (2, length))
    with torch.no_grad():
        exact = model(torch.tensor(ids))[0]
        rough = model.to(torch.bfloat16)(torch.tensor(ids))[0].float()
    assert furthest(t5.encode(weights, config, ids), exact) < 1e-4
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), weights)
    assert spread(t5.encode(half, config, ids), exact) < 1.5 * spread(rough, exact)
