"""Whole pipelines against diffusers' `FluxPipeline`: tokens, text, latents, pictures."""

from __future__ import annotations

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_flux
import torch

import convert.diffusers
from ea_jax.flux import clip, latents, t5, tokens
from ea_jax.flux.parts import PARTS
from ea_jax.flux.pipeline import Pipeline

pytestmark = pytest.mark.parity

PROMPTS = ["a red ball, on grass", "two dogs, neon"]
LENGTH = 24


def theirs_of(folder, dtype=torch.float32):
    pipeline = diffusers.FluxPipeline.from_pretrained(folder).to(dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def paint_theirs(pipeline, noise_BhwC, *, steps=28, output="np", **options):
    packed = np.asarray(latents.pack(noise_BhwC))
    return pipeline(
        PROMPTS,
        height=noise_BhwC.shape[1] * pipeline.vae_scale_factor,
        width=noise_BhwC.shape[2] * pipeline.vae_scale_factor,
        latents=torch.from_numpy(packed.copy()).to(pipeline.dtype),
        num_inference_steps=steps,
        max_sequence_length=LENGTH,
        output_type=output,
        **options,
    ).images


def paint_ours(pipeline, noise_BhwC, **options):
    text, _ = pipeline.encode(PROMPTS, max_length=LENGTH)
    return np.asarray(pipeline.decode(pipeline.sample(text, noise_BhwC=noise_BhwC, **options)))


def noise_of(pipeline, height, width):
    return latents.noise([3, 4], pipeline.latent_shape(height, width))


def far(ours, theirs):
    """Largest difference, relative to the largest value."""
    theirs = np.asarray(theirs, np.float32)
    return np.abs(np.asarray(ours, np.float32) - theirs).max() / np.abs(theirs).max()


@pytest.fixture(scope="module")
def dev(dev_folder):
    return Pipeline.load(dev_folder, dtype=jnp.float32)


@pytest.fixture(scope="module")
def dev_theirs(dev_folder):
    return theirs_of(dev_folder)


def test_tokens_are_diffusers_tokens_also_when_cut(dev_theirs):
    prompts = [*PROMPTS, "", "cut me " * 30]
    for tokenizer, length in [(dev_theirs.tokenizer, 77), (dev_theirs.tokenizer_2, LENGTH)]:
        theirs = tokenizer(
            prompts,
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="np",
        )
        np.testing.assert_array_equal(
            tokens.tokenize(tokenizer, prompts, length).ids_BT, theirs.input_ids
        )


def test_encoded_text_is_diffusers_text(dev, dev_theirs):
    with torch.no_grad():
        t5, pooled, _ = dev_theirs.encode_prompt(PROMPTS, max_sequence_length=LENGTH)
    text, seen = dev.encode(PROMPTS, max_length=LENGTH)
    assert text.t5_BTD.shape == (2, LENGTH, 32)
    assert seen.ids_BT.shape == (2, LENGTH)
    assert far(text.t5_BTD, t5) < 1e-4
    assert far(text.pooled_BD, pooled) < 1e-4


@pytest.mark.parametrize(
    ("height", "width"), [(48, 80), pytest.param(64, 64, marks=pytest.mark.slow)]
)
def test_a_dev_picture_after_28_steps_is_diffusers_picture(dev, dev_theirs, height, width):
    noise_BhwC = noise_of(dev, height, width)
    theirs = paint_theirs(dev_theirs, noise_BhwC, guidance_scale=3.5)
    ours = paint_ours(dev, noise_BhwC)
    assert ours.shape == theirs.shape == (2, height, width, 3)
    assert theirs.std() > 0.1
    assert np.abs(ours - theirs).max() < 1e-3


def test_guidance_changes_the_picture_as_in_diffusers(dev, dev_theirs):
    noise_BhwC = noise_of(dev, 32, 32)
    theirs = paint_theirs(dev_theirs, noise_BhwC, steps=4, guidance_scale=1.5, output="latent")
    text, _ = dev.encode(PROMPTS, max_length=LENGTH)
    ours = latents.pack(dev.sample(text, noise_BhwC=noise_BhwC, steps=4, guidance=1.5))
    other = latents.pack(dev.sample(text, noise_BhwC=noise_BhwC, steps=4, guidance=3.5))
    assert far(ours, theirs) < 1e-4
    assert far(other, theirs) > 1e-3


def test_a_negative_prompt_steers_away_as_in_diffusers(dev, dev_theirs):
    noise_BhwC, said, scale = noise_of(dev, 32, 32), ["a blue box", "snow"], 3.0
    theirs = paint_theirs(
        *(dev_theirs, noise_BhwC), steps=4, negative_prompt=said, true_cfg_scale=scale
    )
    negative, _ = dev.encode(said, max_length=LENGTH)
    ours = paint_ours(dev, noise_BhwC, steps=4, negative=negative, true_cfg=scale)
    assert far(ours, theirs) < 1e-3
    assert far(ours, paint_ours(dev, noise_BhwC, steps=4)) > 0.05
    for given in ({"negative": negative}, {"true_cfg": scale}):
        with pytest.raises(ValueError, match="both negative and true_cfg"):
            paint_ours(dev, noise_BhwC, **given)
    with pytest.raises(ValueError, match="true_cfg is nan"):
        paint_ours(dev, noise_BhwC, negative=negative, true_cfg=float("nan"))


def test_a_schnell_picture_is_diffusers_picture(schnell_folder):
    ours = Pipeline.load(schnell_folder, dtype=jnp.float32)
    noise_BhwC = noise_of(ours, 64, 64)
    theirs = paint_theirs(theirs_of(schnell_folder), noise_BhwC, steps=4, guidance_scale=0.0)
    assert np.abs(paint_ours(ours, noise_BhwC) - theirs).max() < 1e-3


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_sharded_half_precision_folders_paint_diffusers_picture(tmp_path, stored):
    pipeline = random_flux.build().to(stored)
    random_flux.save(pipeline, tmp_path, max_shard_size="20KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 3
    assert len(list((tmp_path / "text_encoder_2").glob("*.safetensors"))) > 1
    ours = Pipeline.load(tmp_path, dtype=jnp.float32)
    noise_BhwC = noise_of(ours, 32, 32)
    theirs = paint_theirs(theirs_of(tmp_path), noise_BhwC, steps=8)
    assert np.abs(paint_ours(ours, noise_BhwC, steps=8) - theirs).max() < 1e-3


def test_bfloat16_sampling_follows_diffusers_rounding_of_time_and_guidance(dev, dev_folder):
    ours = Pipeline.load(dev_folder, dtype=jnp.bfloat16)
    noise_BhwC = noise_of(dev, 32, 32)
    text, _ = dev.encode(PROMPTS, max_length=LENGTH)
    exact = latents.pack(dev.sample(text, noise_BhwC=noise_BhwC, steps=8))
    theirs = (
        paint_theirs(theirs_of(dev_folder, torch.bfloat16), noise_BhwC, steps=8, output="latent")
        .float()
        .numpy()
    )
    text, _ = ours.encode(PROMPTS, max_length=LENGTH)
    rounded = latents.pack(ours.sample(text, noise_BhwC=noise_BhwC, steps=8))
    assert text.t5_BTD.dtype == rounded.dtype == jnp.bfloat16

    def spread(x):
        return np.sqrt(np.mean(np.square(np.asarray(x, np.float32))))

    # These random weights turn guidance 3504 (3500 in bfloat16) into another picture.
    assert spread(theirs - exact) > 0.2 * spread(theirs)
    assert spread(rounded - theirs) < 0.05 * spread(theirs)


def test_encoded_pictures_are_diffusers_latents(dev, dev_theirs):
    images = np.random.default_rng(0).uniform(size=(2, 32, 48, 3)).astype(np.float32)
    vae = dev_theirs.vae
    with torch.no_grad():
        posterior = vae.encode(torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1).latent_dist
    theirs = (posterior.mean - vae.config.shift_factor) * vae.config.scaling_factor
    ours = dev.encode_images(jnp.asarray(images))
    assert far(ours, theirs.permute(0, 2, 3, 1)) < 1e-4
    drawn = dev.encode_images(jnp.asarray(images), jax.random.key(0))
    spread = np.asarray(posterior.std.permute(0, 2, 3, 1)) * vae.config.scaling_factor
    assert abs(np.std((drawn - ours) / spread) - 1) < 0.05


def test_a_folder_written_here_paints_the_same_in_diffusers(dev, dev_folder, dev_theirs, tmp_path):
    for part in PARTS:
        convert.diffusers.save(
            dev.weights[part],
            tmp_path,
            part,
            dtype=np.float32,
            config=convert.diffusers.read_config(dev_folder, part),
            max_shard_bytes=200_000,
        )
        loader = type(getattr(dev_theirs, part))
        again = loader.from_pretrained(tmp_path / part).state_dict()
        before = getattr(dev_theirs, part).state_dict()
        assert again.keys() == before.keys()
        assert all(torch.equal(again[name], before[name]) for name in before)


def test_names_of_older_transformers_load_as_well(dev, dev_folder, tmp_path):
    """FLUX.1-dev's own CLIP file has `text_model.` in front; T5's may name its embedding twice."""
    from safetensors.numpy import load_file, save_file

    for part, rename in [
        ("text_encoder", lambda name: f"text_model.{name}"),
        ("text_encoder_2", lambda name: name.replace("shared", "encoder.embed_tokens")),
    ]:
        (tmp_path / part).mkdir()
        config = (dev_folder / part / "config.json").read_text()
        (tmp_path / part / "config.json").write_text(config)
        tensors = load_file(dev_folder / part / "model.safetensors")
        renamed = {rename(name): tensor for name, tensor in tensors.items()}
        assert renamed.keys() != tensors.keys()
        if part == "text_encoder":
            renamed["text_model.embeddings.position_ids"] = np.arange(77)[None]
        else:
            renamed |= tensors
        save_file(renamed, tmp_path / part / "model.safetensors")
        loaded = convert.diffusers.load(dev.template(part), tmp_path, part)
        jax.tree.map(np.testing.assert_array_equal, loaded, dev.weights[part])


def test_t5_position_buckets_are_transformers_up_to_512_tokens():
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(512)[None, :] - torch.arange(512)[:, None]
    theirs = T5Attention._relative_position_bucket(distance, True, 32, 128)
    np.testing.assert_array_equal(t5.position_buckets(512, 32, 128), theirs)


def test_clip_ends_where_a_newer_config_says(dev_theirs):
    """Newer configs name the end token's id; FLUX's say 2, and the largest id is meant."""
    model = dev_theirs.text_encoder
    end = model.config.vocab_size - 1
    config = clip.ClipConfig.from_json({**model.config.to_dict(), "eos_token_id": end - 2})
    ids = np.array([[80, 3, end - 2, 5, end - 2]])
    weights = clip.init_weights(config, jax.random.key(0))
    pooled = clip.pool(weights, config, ids)
    np.testing.assert_allclose(pooled, clip.hidden_states(weights, config, ids)[:, 2], atol=1e-6)
