"""A transformer's weights under the names of Black Forest Labs' own file."""

from __future__ import annotations

import numpy as np


# Black Forest Labs' layout, written here by hand from their model's code, not from our tables.
def bfl_tensors(weights):
    def linear(tree, block=None):
        kernel, bias = tree["kernel"], tree["bias"]
        if block is not None:
            kernel, bias = kernel[block], bias[block]
        return np.ascontiguousarray(kernel.T), bias

    out = {}

    def put(name, *trees, block=None):
        pairs = [linear(tree, block) for tree in trees]
        out[f"{name}.weight"] = np.concatenate([pair[0] for pair in pairs])
        out[f"{name}.bias"] = np.concatenate([pair[1] for pair in pairs])

    put("img_in", weights["x_embedder"])
    put("txt_in", weights["context_embedder"])
    embedders = weights["time_text_embed"]
    for theirs, ours in [
        ("time_in", "timestep_embedder"),
        ("guidance_in", "guidance_embedder"),
        ("vector_in", "text_embedder"),
    ]:
        put(f"{theirs}.in_layer", embedders[ours]["linear_1"])
        put(f"{theirs}.out_layer", embedders[ours]["linear_2"])
    dual, single = weights["transformer_blocks"], weights["single_transformer_blocks"]
    for i in range(dual["attn"]["norm_q"]["scale"].shape[0]):
        attn, name = dual["attn"], f"double_blocks.{i}"
        put(f"{name}.img_mod.lin", dual["norm1"]["linear"], block=i)
        put(f"{name}.txt_mod.lin", dual["norm1_context"]["linear"], block=i)
        put(f"{name}.img_attn.qkv", attn["to_q"], attn["to_k"], attn["to_v"], block=i)
        put(
            f"{name}.txt_attn.qkv",
            attn["add_q_proj"],
            attn["add_k_proj"],
            attn["add_v_proj"],
            block=i,
        )
        put(f"{name}.img_attn.proj", attn["to_out"], block=i)
        put(f"{name}.txt_attn.proj", attn["to_add_out"], block=i)
        out[f"{name}.img_attn.norm.query_norm.scale"] = attn["norm_q"]["scale"][i]
        out[f"{name}.img_attn.norm.key_norm.scale"] = attn["norm_k"]["scale"][i]
        out[f"{name}.txt_attn.norm.query_norm.scale"] = attn["norm_added_q"]["scale"][i]
        out[f"{name}.txt_attn.norm.key_norm.scale"] = attn["norm_added_k"]["scale"][i]
        put(f"{name}.img_mlp.0", dual["ff"]["up"], block=i)
        put(f"{name}.img_mlp.2", dual["ff"]["down"], block=i)
        put(f"{name}.txt_mlp.0", dual["ff_context"]["up"], block=i)
        put(f"{name}.txt_mlp.2", dual["ff_context"]["down"], block=i)
    for i in range(single["attn"]["norm_q"]["scale"].shape[0]):
        attn, name = single["attn"], f"single_blocks.{i}"
        put(f"{name}.modulation.lin", single["norm"]["linear"], block=i)
        put(
            f"{name}.linear1",
            attn["to_q"],
            attn["to_k"],
            attn["to_v"],
            single["proj_mlp"],
            block=i,
        )
        put(f"{name}.linear2", single["proj_out"], block=i)
        out[f"{name}.norm.query_norm.scale"] = attn["norm_q"]["scale"][i]
        out[f"{name}.norm.key_norm.scale"] = attn["norm_k"]["scale"][i]
    put("final_layer.linear", weights["proj_out"])
    weight, bias = linear(weights["norm_out"]["linear"])
    half = len(bias) // 2  # ours (scale, shift), theirs (shift, scale)
    out["final_layer.adaLN_modulation.1.weight"] = np.concatenate([weight[half:], weight[:half]])
    out["final_layer.adaLN_modulation.1.bias"] = np.concatenate([bias[half:], bias[:half]])
    return out
