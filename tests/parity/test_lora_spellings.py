"""LoRA files with diffusers' names, as people have them: each changes what diffusers changes.

Compared are the deltas of every layer. Where diffusers drops or refuses a spelling, the same deltas
come from a file that it does read.
"""

from __future__ import annotations

import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from lora_files import (
    DOUBLE,
    KOHYA_ENDS,
    LAYERS,
    RANK,
    SINGLE,
    in_diffusers_names,
    in_kohyas_names,
    ours,
    pair,
    same,
    theirs,
    written,
)
from safetensors.torch import save_file as save_torch

from ea_jax import edits, lora
from ea_jax.flux import latents
from ea_jax.flux.pipeline import Pipeline

pytestmark = pytest.mark.parity


ALPHA = {
    "none": {},
    "diffusers' metadata": {
        "lora_alpha": 2.0,
        "r": RANK,
        "alpha_pattern": {"attn.add_q_proj": 6.0, f"{SINGLE}.1.proj_out": 1.0},
    },
    "rslora": {"lora_alpha": 2.0, "r": RANK, "use_rslora": True},
}


@pytest.mark.parametrize("case", ALPHA)
def test_diffusers_names_with_lora_a_and_b(pipeline, weights, tmp_path, case):
    fields = {f"transformer.{key}": value for key, value in ALPHA[case].items()}
    if fields:
        fields["transformer.target_modules"] = [name for name, *_ in LAYERS]
    metadata = {"lora_adapter_metadata": json.dumps(fields)} if fields else None
    path = written(tmp_path, in_diffusers_names(), metadata)
    same(ours(path, weights), theirs(pipeline, path))


@pytest.mark.parametrize("ends", [("down", "up")], ids=str)
@pytest.mark.parametrize("between", ["lora.", "lora_"])
def test_diffusers_names_with_down_and_up(pipeline, weights, tmp_path, between, ends):
    ends = tuple(f"{between}{end}.weight" for end in ends)
    path = written(tmp_path, in_diffusers_names(ends=ends))
    same(ours(path, weights), theirs(pipeline, path))


def test_alpha_of_each_layer_beside_diffusers_names(pipeline, weights, tmp_path):
    tensors = in_diffusers_names()
    for index, (name, *_) in enumerate(LAYERS):
        tensors[f"transformer.{name}.alpha"] = np.array(1.0 + index, np.float32)
    path = written(tmp_path, tensors)
    same(ours(path, weights), theirs(pipeline, path))


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "base_model.model.", "lora_unet_"])
def test_prefixes_that_diffusers_drops_or_refuses_read_as_transformer(
    pipeline, weights, tmp_path, prefix
):
    """With `lora_unet_`, SimpleTuner's, `_` stands for dots."""
    spelled = {
        f"{prefix}{k.removeprefix('transformer.')}": v for k, v in in_diffusers_names().items()
    }
    if prefix == "base_model.model.":
        (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 4, "r": 4}')
    if prefix == "lora_unet_":
        spelled = {
            k.partition(".lora_")[0].replace(".", "_") + ".lora_" + k.partition(".lora_")[2]: v
            for k, v in spelled.items()
        }
    reference = theirs(pipeline, written(tmp_path, in_diffusers_names(), name="known.safetensors"))
    same(ours(written(tmp_path, spelled), weights), reference)


def test_the_name_of_pefts_adapter_in_the_key(pipeline, weights, tmp_path):
    """`lora_A.default.weight`; diffusers takes the file without it."""
    named = in_diffusers_names(ends=("lora_A.default.weight", "lora_B.default.weight"))
    reference = theirs(pipeline, written(tmp_path, in_diffusers_names(), name="known.safetensors"))
    same(ours(written(tmp_path, named), weights), reference)


def test_blocks_and_ranks_may_be_uneven(pipeline, weights, tmp_path):
    """LAYERS leaves out blocks; here every layer has a rank of its own as well."""
    rank = {name: 2 + index for index, (name, *_) in enumerate(LAYERS)}
    path = written(tmp_path, in_diffusers_names(rank=rank.__getitem__))
    same(ours(path, weights), theirs(pipeline, path))


def test_a_lora_on_the_first_block_alone_paints_their_picture(pipeline, dev_folder, tmp_path):
    tensors = {
        key: array
        for key, array in in_diffusers_names().items()
        if any(f"{kind}.0." in key for kind in (DOUBLE, SINGLE))
    }
    path = written(tmp_path, tensors)
    model = Pipeline.load(dev_folder, dtype=jnp.float32)
    noise_BhwC = latents.noise([3], model.latent_shape(32, 32))
    text, _ = model.encode(["a red ball"], max_length=24)
    options = {"noise_BhwC": noise_BhwC, "steps": 2}
    z_BhwC = model.sample(text, lora=edits.load(path).lora(), **options)
    picture, base = np.asarray(model.decode(z_BhwC)), model.decode(model.sample(text, **options))
    merged = lora.merge(model.weights["transformer"], edits.load(path).lora())
    again = np.asarray(model.decode(model.sample(text, weights=merged, **options)))
    pipeline.load_lora_weights(path)
    pipeline.set_progress_bar_config(disable=True)
    wanted = pipeline(
        ["a red ball"],
        height=32,
        width=32,
        latents=torch.from_numpy(np.array(latents.pack(noise_BhwC))),
        num_inference_steps=2,
        guidance_scale=3.5,
        max_sequence_length=24,
        output_type="np",
    ).images
    pipeline.unload_lora_weights()
    assert np.abs(picture - np.asarray(base)).max() > 0.01
    np.testing.assert_allclose(picture, wanted, atol=1e-3)
    np.testing.assert_allclose(again, wanted, atol=1e-3)


@pytest.mark.parametrize("text", ["text_encoder", "lora_te1"])
def test_text_encoders_are_left_out_and_that_is_said(pipeline, weights, tmp_path, caplog, text):
    if text == "lora_te1":
        alone, ends = in_kohyas_names(), KOHYA_ENDS
        name = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
    else:
        alone, ends = in_diffusers_names(), ("lora_A.weight", "lora_B.weight")
        name = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    path = written(tmp_path, alone | pair(name, 24, 24, ends=ends))
    with caplog.at_level(logging.WARNING):
        found = ours(path, weights)
    assert f"left out 2 tensors for text encoders in {path}" in caplog.text
    same(found, theirs(pipeline, written(tmp_path, alone, name="alone.safetensors")))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_narrow_numbers_are_read_as_torch_reads_them(pipeline, weights, tmp_path, dtype):
    """diffusers is given them in float32: PEFT computes no product in eight bits."""
    narrow = {k: torch.from_numpy(v).to(dtype) for k, v in in_diffusers_names().items()}
    save_torch(narrow, tmp_path / "narrow.safetensors")
    wide = {key: tensor.float() for key, tensor in narrow.items()}
    save_torch(wide, tmp_path / "wide.safetensors")
    same(
        ours(tmp_path / "narrow.safetensors", weights),
        theirs(pipeline, tmp_path / "wide.safetensors"),
    )
