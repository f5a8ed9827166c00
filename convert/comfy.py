"""Where ComfyUI puts each layer of a LoRA in diffusers' layout.

ComfyUI holds FLUX in Black Forest Labs' layout, where Q, K, V are one matrix. Its key map sends
`transformer.transformer_blocks.3.attn.add_k_proj` to the middle third of
`diffusion_model.double_blocks.3.txt_attn.qkv.weight`, and so on. Known from its source
(`comfy/lora.py`, `flux_to_diffusers` in `comfy/utils.py`); this is our own account of it, so that
a test can hold our files to it.
"""

from __future__ import annotations

from typing import Any

from convert import layouts, peft, trees
from convert.trees import Piece

PREFIX = "diffusion_model."


def key_map(template: Any) -> dict[str, Piece]:
    """Every layer that a LoRA file can name, and the rows of ComfyUI's weight that it changes.

    Args:
      template: the transformer's weights, or their ShapeDtypeStructs.
    Returns:
      {name in the file, without `.lora_A.weight`: weight and row ranges}.
    """
    pieces, _ = trees.plan(template, layouts.BLACK_FOREST_LABS)
    places = {}
    for (*module, leaf), blocks in pieces.items():
        if leaf != "kernel":
            continue
        path = tuple(module)
        stacked = "{}" in layouts.TRANSFORMER.module(".".join(path))
        for index, piece in enumerate(blocks):
            name = peft.PREFIX + peft.layer_name(path, index if stacked else None)
            places[name] = Piece(PREFIX + piece.name, piece.rows)
    return places
