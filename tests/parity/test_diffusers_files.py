"""Files of diffusers load here, folders written here load in diffusers and transformers."""

from __future__ import annotations

import types

import diffusers
import jax
import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from safetensors.torch import load_file, save_file

import convert.bfl
import convert.diffusers
from ea_jax.flux import transformer

pytestmark = pytest.mark.parity

CONFIG = {
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "axes_dims_rope": (2, 2, 4),
    "joint_attention_dim": 12,
    "pooled_projection_dim": 10,
    "in_channels": 16,
}
WIDTH = 16


def template(folder):
    config = convert.diffusers.read_config(folder, "transformer")
    return transformer.abstract_weights(transformer.TransformerConfig.from_json(config))


def bfl_names(guidance):
    """Shapes of a single file with two dual and three single blocks of width 16."""
    shapes = {"img_in": (WIDTH, 16), "txt_in": (WIDTH, 12), "final_layer.linear": (16, WIDTH)}
    shapes["final_layer.adaLN_modulation.1"] = (2 * WIDTH, WIDTH)
    for name, width_in in [("time_in", 256), ("vector_in", 10), ("guidance_in", 256)]:
        if guidance or name != "guidance_in":
            shapes[f"{name}.in_layer"] = (WIDTH, width_in)
            shapes[f"{name}.out_layer"] = (WIDTH, WIDTH)
    scales = []
    for i in range(2):
        for stream in ("img", "txt"):
            name = f"double_blocks.{i}.{stream}"
            shapes[f"{name}_mod.lin"] = (6 * WIDTH, WIDTH)
            shapes[f"{name}_attn.qkv"] = (3 * WIDTH, WIDTH)
            shapes[f"{name}_attn.proj"] = (WIDTH, WIDTH)
            shapes[f"{name}_mlp.0"] = (4 * WIDTH, WIDTH)
            shapes[f"{name}_mlp.2"] = (WIDTH, 4 * WIDTH)
            scales += [f"{name}_attn.norm.query_norm.scale", f"{name}_attn.norm.key_norm.scale"]
    for i in range(3):
        name = f"single_blocks.{i}"
        shapes[f"{name}.modulation.lin"] = (3 * WIDTH, WIDTH)
        shapes[f"{name}.linear1"] = (7 * WIDTH, WIDTH)
        shapes[f"{name}.linear2"] = (WIDTH, 5 * WIDTH)
        scales += [f"{name}.norm.query_norm.scale", f"{name}.norm.key_norm.scale"]
    tensors = {scale: torch.randn(8) for scale in scales}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(shape)
        tensors[f"{name}.bias"] = torch.randn(shape[:1])
    return tensors


def to_diffusers(tensors):
    """diffusers' own conversion, whose width of 3072 is a constant inside it."""
    theirs = convert_flux_transformer_checkpoint_to_diffusers
    code = theirs.__code__
    constants = tuple(WIDTH if constant == 3072 else constant for constant in code.co_consts)
    assert constants != code.co_consts
    function = types.FunctionType(code.replace(co_consts=constants), theirs.__globals__)
    return function(dict(tensors))


@pytest.mark.parametrize("guidance", [True, False])
def test_a_black_forest_labs_file_loads_as_diffusers_converts_it(tmp_path, guidance):
    torch.manual_seed(0)
    tensors = bfl_names(guidance)
    save_file(tensors, tmp_path / "flux1.safetensors")
    model = diffusers.FluxTransformer2DModel(**CONFIG, guidance_embeds=guidance)
    model.load_state_dict(to_diffusers(tensors), strict=True)
    model.save_pretrained(tmp_path / "transformer")
    wanted = convert.diffusers.load(template(tmp_path), tmp_path, "transformer")
    found = convert.bfl.load(template(tmp_path), tmp_path / "flux1.safetensors")
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("shard", ["10GB", "20KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_transformer_of_diffusers_comes_back_as_the_same_tensors(tmp_path, dtype, shard):
    model = diffusers.FluxTransformer2DModel(**CONFIG, guidance_embeds=True).to(dtype)
    model.save_pretrained(tmp_path / "transformer", max_shard_size=shard)
    weights = convert.diffusers.load(template(tmp_path), tmp_path, "transformer")
    config = convert.diffusers.read_config(tmp_path, "transformer")
    stored = {torch.float32: np.float32, torch.float16: np.float16}.get(dtype, jax.numpy.bfloat16)
    convert.diffusers.save(
        weights,
        tmp_path / "again",
        "transformer",
        dtype=stored,
        config=config,
        max_shard_bytes=20_000 if shard == "20KB" else convert.diffusers.MAX_SHARD_BYTES,
    )
    again = diffusers.FluxTransformer2DModel.from_pretrained(tmp_path / "again" / "transformer").to(
        dtype
    )
    theirs, ours = model.state_dict(), again.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    if shard == "10GB":
        name = "transformer/diffusion_pytorch_model.safetensors"
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()
        assert load_file(tmp_path / name).keys() == theirs.keys()
