"""A small CLIP of random weights, built and saved by transformers itself."""

from __future__ import annotations

from pathlib import Path

import random_flux
import torch
import transformers

SIDE = 24


def build(seed: int = 0) -> transformers.CLIPModel:
    """Two towers of 2 and 3 layers, pictures of 24 px in 9 patches, a letter-wise vocabulary."""
    words = len(random_flux.letter_tokenizers()[0])
    config = transformers.CLIPConfig(
        text_config={
            "vocab_size": words, "hidden_size": 24, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "bos_token_id": words - 2,
            "eos_token_id": words - 1,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3,
            "num_attention_heads": 4, "image_size": SIDE, "patch_size": 8,
        },
        projection_dim=16,
    )  # fmt: skip
    model = transformers.CLIPModel(config).eval()
    random_flux.randomise(model, torch.Generator().manual_seed(seed))
    # A scalar, which randomise leaves near 0.
    torch.nn.init.constant_(model.logit_scale, 3.0)
    return model


def processor() -> transformers.CLIPImageProcessorPil:
    """transformers' own, for pictures of this CLIP's size."""
    return transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )


def save(model: transformers.CLIPModel, folder: Path) -> Path:
    """Weights, configs and tokenizer in one folder; returns it."""
    model.save_pretrained(folder)
    random_flux.letter_tokenizers()[0].save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder
