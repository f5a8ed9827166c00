"""LoRA files in the spellings of other programs, and what diffusers and we make of them."""

from __future__ import annotations

import diffusers
import numpy as np
from safetensors.numpy import save_file

from convert import peft
from ea_jax import edits

DOUBLE, SINGLE = "transformer_blocks", "single_transformer_blocks"
RANK = 4


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
    deltas = {layer: pairs[layer + ends[1]] @ pairs[layer + ends[0]] for layer in layers}
    return {layer.removeprefix("transformer."): delta.numpy() for layer, delta in deltas.items()}


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
    *((f"{DOUBLE}.{i}.attn.add_{x}_proj", 64, 64) for i in range(2) for x in "qkv"),
    (f"{DOUBLE}.1.attn.to_out.0", 64, 64),
    (f"{DOUBLE}.1.attn.to_add_out", 64, 64),
    (f"{DOUBLE}.0.ff.net.0.proj", 64, 256),
    (f"{DOUBLE}.0.ff_context.net.2", 256, 64),
    (f"{DOUBLE}.0.norm1_context.linear", 64, 384),
    (f"{SINGLE}.0.attn.to_q", 64, 64),
    (f"{SINGLE}.1.proj_mlp", 64, 256),
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


# Layers of Black Forest Labs' layout that diffusers converts at any width.
BFL = [
    *((f"double_blocks.{i}.txt_attn.qkv", 64, 192) for i in range(2)),
    ("double_blocks.1.img_attn.qkv", 64, 192),
    ("double_blocks.0.img_attn.proj", 64, 64),
    ("double_blocks.1.txt_attn.proj", 64, 64),
    ("double_blocks.0.img_mlp.0", 64, 256),
    ("double_blocks.0.txt_mlp.2", 256, 64),
    ("double_blocks.1.img_mod.lin", 64, 384),
    ("double_blocks.1.txt_mod.lin", 64, 384),
    ("single_blocks.1.linear2", 320, 64),
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
