"""LoRA files as people have them: each changes the weights as diffusers changes them.

Compared are the deltas of every layer. Where diffusers' converters know FLUX's own widths alone
(3072), they are asked for a file of those widths, which needs no model; where they refuse or drop
a spelling, the same deltas come from a file that diffusers does read, or from NumPy.
"""

from __future__ import annotations

import json
import logging

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from convert import peft
from ea_jax import edits
from ea_jax.flux import latents
from ea_jax.flux.adapters import walk
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.transformer import TransformerConfig, abstract_weights

pytestmark = pytest.mark.parity

DOUBLE, SINGLE = "transformer_blocks", "single_transformer_blocks"
RANK = 4


@pytest.fixture(scope="session")
def pipeline(dev_folder):
    """diffusers' own: 3 dual and 3 single blocks, 64 wide."""
    return diffusers.FluxPipeline.from_pretrained(dev_folder)


@pytest.fixture(scope="session")
def weights(pipeline):
    return abstract_weights(TransformerConfig.from_json(dict(pipeline.transformer.config)))


def theirs(pipeline, path):
    """{layer: what diffusers adds to its weight}, layers named as diffusers names them."""
    pipeline.load_lora_weights(path)
    try:
        return {
            name: module.get_delta_weight(*module.lora_A).detach().numpy()
            for name, module in pipeline.transformer.named_modules()
            if hasattr(module, "lora_A")
        }
    finally:
        pipeline.unload_lora_weights()


def converted(path):
    """What diffusers' converters make of a file, without a model; alpha is in it."""
    pairs = diffusers.FluxPipeline.lora_state_dict(path)
    ends = ".lora_A.weight", ".lora_B.weight"
    layers = {key.removesuffix(ends[0]) for key in pairs if key.endswith(ends[0])}
    return {
        layer.removeprefix("transformer."): (
            pairs[layer + ends[1]] @ pairs[layer + ends[0]]
        ).numpy()
        for layer in layers
    }


def ours(path, weights=None):
    """The same of our reader; blocks that are padded are left out."""
    edit = edits.load(path)
    found = {}
    for module, delta in edit.changes().items():
        delta = np.asarray(delta)
        if delta.ndim == 2:
            found[peft.layer_name(module)] = delta.T
            continue
        for index, block in enumerate(delta):
            if block.any():
                found[peft.layer_name(module, index)] = block.T
    if weights is not None:
        assert edit.check(weights) == len(found)
    return found


def same(one, other):
    assert sorted(one) == sorted(other)
    assert one
    for name, delta in one.items():
        assert np.abs(delta).max() > 1e-3, name
        np.testing.assert_allclose(delta, other[name], atol=1e-5, err_msg=name)


def pair(name, width_in, width_out, rank=RANK, ends=("lora_A.weight", "lora_B.weight")):
    rng = np.random.default_rng([*name.encode()])
    draw = lambda *shape: (0.3 * rng.normal(size=shape)).astype(np.float32)  # noqa: E731
    return {f"{name}.{ends[0]}": draw(rank, width_in), f"{name}.{ends[1]}": draw(width_out, rank)}


def product(tensors, name, ends=("lora_A.weight", "lora_B.weight")):
    return tensors[f"{name}.{ends[1]}"] @ tensors[f"{name}.{ends[0]}"]


def written(folder, tensors, metadata=None, name="lora.safetensors"):
    # save_file writes an array's memory, whatever its strides.
    tensors = {key: np.ascontiguousarray(array) for key, array in tensors.items()}
    save_file(tensors, folder / name, metadata)
    return folder / name


# Layers of diffusers' layout: name, inputs, outputs at the width of 64.
LAYERS = [
    *((f"{DOUBLE}.{i}.attn.add_{x}_proj", 64, 64) for i in range(3) for x in "qkv"),
    (f"{DOUBLE}.1.attn.to_out.0", 64, 64),
    (f"{DOUBLE}.1.attn.to_add_out", 64, 64),
    (f"{DOUBLE}.0.ff.net.0.proj", 64, 256),
    (f"{DOUBLE}.0.ff_context.net.2", 256, 64),
    (f"{DOUBLE}.2.norm1_context.linear", 64, 384),
    (f"{SINGLE}.0.attn.to_q", 64, 64),
    (f"{SINGLE}.2.proj_mlp", 64, 256),
    (f"{SINGLE}.1.proj_out", 320, 64),
    ("context_embedder", 32, 64),
    ("norm_out.linear", 64, 128),
]


def in_diffusers_names(prefix="transformer.", ends=("lora_A.weight", "lora_B.weight"), rank=RANK):
    rank = rank if callable(rank) else lambda _, rank=rank: rank
    tensors = {}
    for name, *widths in LAYERS:
        for key, array in pair(name, *widths, rank=rank(name)).items():
            end = ends["lora_B" in key]
            tensors[f"{prefix}{name}.{end}"] = array
    return tensors


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
    merged = edits.load(path).apply(model.weights["transformer"])
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


# Layers of Black Forest Labs' layout that diffusers converts at any width.
BFL = [
    *((f"double_blocks.{i}.txt_attn.qkv", 64, 192) for i in range(3)),
    ("double_blocks.1.img_attn.qkv", 64, 192),
    ("double_blocks.0.img_attn.proj", 64, 64),
    ("double_blocks.2.txt_attn.proj", 64, 64),
    ("double_blocks.0.img_mlp.0", 64, 256),
    ("double_blocks.0.txt_mlp.2", 256, 64),
    ("double_blocks.1.img_mod.lin", 64, 384),
    ("double_blocks.1.txt_mod.lin", 64, 384),
    ("single_blocks.2.linear2", 320, 64),
    ("single_blocks.0.modulation.lin", 64, 192),
]
KOHYA_ENDS = "lora_down.weight", "lora_up.weight"


def in_kohyas_names(layers=BFL, alpha=3.0, rank=RANK):
    tensors = {}
    for name, *widths in layers:
        flat = "lora_unet_" + name.replace(".", "_")
        tensors |= pair(flat, *widths, rank, KOHYA_ENDS)
        if alpha is not None:
            tensors[f"{flat}.alpha"] = np.array(alpha, np.float32)
    return tensors


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
        **{f"double_blocks.{i}.processor.qkv_lora2": (64, 192) for i in range(3)},
        "double_blocks.1.processor.qkv_lora1": (64, 192),
        "double_blocks.0.processor.proj_lora1": (64, 64),
        "double_blocks.2.processor.proj_lora2": (64, 64),
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
