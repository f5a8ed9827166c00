"""LoRA files of kohya, XLabs and ComfyUI, in whose layers one matrix holds Q, K and V.

Compared are the deltas of every layer. Where diffusers' converters know FLUX's own widths alone
(3072), they are asked for a file of those widths, which needs no model; where they refuse or drop a
spelling, the same deltas come from a file that diffusers does read, or from NumPy.
"""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
from lora_files import (
    BFL,
    KOHYA_ENDS,
    SINGLE,
    converted,
    in_kohyas_names,
    ours,
    pair,
    product,
    same,
    theirs,
    written,
)

from convert import peft
from ea_jax.flux.adapters import walk

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("alpha", [3.0, None])
def test_kohyas_names(pipeline, weights, tmp_path, alpha):
    path = written(tmp_path, in_kohyas_names(alpha=alpha))
    same(ours(path, weights), theirs(pipeline, path))


@pytest.mark.parametrize("prefix", ["diffusion_model.", ""])
@pytest.mark.parametrize("ends", [KOHYA_ENDS, ("lora_A.weight", "lora_B.weight")])
def test_black_forest_labs_names(pipeline, weights, tmp_path, prefix, ends):
    """ComfyUI's with `diffusion_model.` and down; the others diffusers reads as kohya's alone."""
    tensors, known = {}, {}
    for name, *widths in BFL:
        a, b = pair(name, *widths).values()
        tensors |= {f"{prefix}{name}.{ends[0]}": a, f"{prefix}{name}.{ends[1]}": b}
        flat = "lora_unet_" + name.replace(".", "_")
        known |= {f"{flat}.{KOHYA_ENDS[0]}": a, f"{flat}.{KOHYA_ENDS[1]}": b}
    path = written(tmp_path, tensors)
    reference = theirs(pipeline, written(tmp_path, known, name="known.safetensors"))
    same(ours(path, weights), reference)
    if prefix and ends == KOHYA_ENDS:
        same(ours(path), theirs(pipeline, path))


def test_a_single_blocks_linear1_is_cut_at_fluxs_width_as_by_diffusers(tmp_path):
    """Its converter knows 3072 and 12288 alone."""
    layers = [("single_blocks.1.linear1", 3072, 3 * 3072 + 12288)]
    path = written(tmp_path, in_kohyas_names(layers, rank=1))
    found = ours(path)
    assert sorted(name.rpartition(".")[2] for name in found) == ["proj_mlp", "to_k", "to_q", "to_v"]
    same(found, converted(path))


def test_a_single_blocks_linear1_is_cut_at_a_small_width(weights, tmp_path):
    """By NumPy: diffusers refuses the width."""
    name = "single_blocks.1.linear1"
    tensors = pair(name, 64, 3 * 64 + 256)
    q, k, v, mlp = np.split(product(tensors, name), [64, 128, 192])
    block = f"{SINGLE}.1"
    same(
        ours(written(tmp_path, tensors), weights),
        {f"{block}.attn.to_{x}": part for x, part in zip("qkv", (q, k, v), strict=True)}
        | {f"{block}.proj_mlp": mlp},
    )


def test_embedders_and_the_last_layer_in_kohyas_names(weights, tmp_path):
    """By NumPy: diffusers drops the embedders, and the last layer's alpha."""
    names = {
        "img_in": ("x_embedder", 64, 64),
        "txt_in": ("context_embedder", 32, 64),
        "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1", 256, 64),
        "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2", 64, 64),
        "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1", 24, 64),
        "final_layer.linear": ("proj_out", 64, 64),
        "final_layer.adaLN_modulation.1": ("norm_out.linear", 64, 128),
    }
    tensors = in_kohyas_names([(name, *widths) for name, (_, *widths) in names.items()], alpha=2.0)
    wanted = {}
    for name, (layer, *_) in names.items():
        flat = "lora_unet_" + name.replace(".", "_")
        wanted[layer] = 0.5 * product(tensors, flat, KOHYA_ENDS)
    shift, scale = np.split(wanted["norm_out.linear"], 2)
    wanted["norm_out.linear"] = np.concatenate([scale, shift])
    same(ours(written(tmp_path, tensors), weights), wanted)


def test_the_last_layers_halves_are_swapped_as_by_diffusers(tmp_path):
    layers = [("final_layer.adaLN_modulation.1", 64, 128), ("final_layer.linear", 64, 64)]
    path = written(tmp_path, in_kohyas_names(layers, alpha=None))
    same(ours(path), converted(path))


def test_black_forest_labs_names_under_pefts_prefix_need_no_settings(tmp_path):
    """All 57 blocks at FLUX's width, rank 1: less diffusers' converter doesn't take."""
    tensors = {}
    parts = {
        "img_attn.qkv": (3072, 9216),
        "txt_attn.qkv": (3072, 9216),
        "img_attn.proj": (3072, 3072),
        "txt_attn.proj": (3072, 3072),
        "img_mlp.0": (3072, 12288),
        "img_mlp.2": (12288, 3072),
        "txt_mlp.0": (3072, 12288),
        "txt_mlp.2": (12288, 3072),
        "img_mod.lin": (3072, 18432),
        "txt_mod.lin": (3072, 18432),
    }
    single = {
        "linear1": (3072, 21504),
        "linear2": (15360, 3072),
        "modulation.lin": (3072, 9216),
    }
    prefix = "base_model.model."
    for index in range(19):
        for name, widths in parts.items():
            tensors |= pair(f"{prefix}double_blocks.{index}.{name}", *widths, rank=1)
    for index in range(38):
        for name, widths in single.items():
            tensors |= pair(f"{prefix}single_blocks.{index}.{name}", *widths, rank=1)
    tensors |= pair(f"{prefix}final_layer.linear", 3072, 64, rank=1)
    path = written(tmp_path, tensors)
    pairs = diffusers.FluxPipeline.lora_state_dict(path)
    lora, _, _ = peft.read(path)
    found = 0
    for module, adapter in walk(lora):
        stacked = adapter["A"].ndim == 3
        for index in range(len(adapter["A"])) if stacked else [None]:
            for end in "AB":
                array = adapter[end][index] if stacked else adapter[end]
                name = f"transformer.{peft.layer_name(module, index)}.lora_{end}.weight"
                np.testing.assert_array_equal(array.T, pairs[name])
                found += 1
    assert found == len(pairs) == 2 * (19 * 14 + 38 * 6 + 1)


def test_xlabs_names(pipeline, weights, tmp_path):
    names = {
        **{f"double_blocks.{i}.processor.qkv_lora2": (64, 192) for i in range(2)},
        "double_blocks.1.processor.qkv_lora1": (64, 192),
        "double_blocks.0.processor.proj_lora1": (64, 64),
        "double_blocks.0.processor.proj_lora2": (64, 64),
        "single_blocks.1.processor.qkv_lora": (64, 192),
        "single_blocks.1.processor.proj_lora": (320, 64),
    }
    tensors = {}
    for name, widths in names.items():
        tensors |= pair(name, *widths, ends=("down.weight", "up.weight"))
    path = written(tmp_path, tensors)
    same(ours(path, weights), theirs(pipeline, path))
    prefixed = {f"diffusion_model.{key}": array for key, array in tensors.items()}
    path = written(tmp_path, prefixed, name="prefixed.safetensors")
    same(ours(path, weights), theirs(pipeline, path))
