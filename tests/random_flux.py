"""Small FLUX pipelines of random weights, built and saved by diffusers itself."""

from __future__ import annotations

import dataclasses
import shutil
import string
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

SCHEDULERS = {
    True: {"shift": 3.0, "use_dynamic_shifting": True},
    False: {"shift": 1.0, "use_dynamic_shifting": False},
}


@dataclasses.dataclass(frozen=True)
class Size:
    """Widths that don't matter to names: everything but the numbers of blocks and levels."""

    num_layers: int = 2
    num_single_layers: int = 2
    attention_head_dim: int = 32
    axes_dims_rope: tuple[int, ...] = (8, 12, 12)
    vae_channels: tuple[int, ...] = (8, 16, 16)
    sample_size: int = 64


# As many blocks and VAE levels as FLUX.1-dev has: the same tensor names, hence the same LoRA keys.
DEV_LIKE = Size(
    num_layers=19,
    num_single_layers=38,
    attention_head_dim=16,
    axes_dims_rope=(4, 6, 6),
    vae_channels=(4, 8, 8, 8),
    sample_size=1024,
)


def build(
    *,
    guidance: bool = True,
    tokenizers: Path | None = None,
    size: Size | None = None,
    seed: int = 0,
) -> diffusers.FluxPipeline:
    """A FluxPipeline like dev (with guidance) or schnell (without).

    Args:
      guidance: dev-like, with dynamic shift, or schnell-like.
      tokenizers: folder with FLUX's own `tokenizer` and `tokenizer_2`; None makes letter-wise ones.
      size: numbers of blocks and widths.
      seed: of the weights.
    """
    size = size or Size()
    if tokenizers is None:
        clip_tokenizer, t5_tokenizer = letter_tokenizers()
        clip_vocab, t5_vocab = len(clip_tokenizer), len(t5_tokenizer)
    else:
        clip_tokenizer = transformers.CLIPTokenizer.from_pretrained(tokenizers / "tokenizer")
        t5_tokenizer = transformers.T5TokenizerFast.from_pretrained(tokenizers / "tokenizer_2")
        clip_vocab, t5_vocab = 49408, 32128
    levels = len(size.vae_channels)
    transformer = diffusers.FluxTransformer2DModel(
        num_layers=size.num_layers,
        num_single_layers=size.num_single_layers,
        attention_head_dim=size.attention_head_dim,
        num_attention_heads=2,
        axes_dims_rope=size.axes_dims_rope,
        joint_attention_dim=32,
        pooled_projection_dim=24,
        guidance_embeds=guidance,
        in_channels=64,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=size.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=size.sample_size,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    clip = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=clip_vocab,
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            projection_dim=24,
            bos_token_id=clip_vocab - 2,
            eos_token_id=2,  # as in FLUX.1: the end is where the ids are largest
        )
    )
    t5 = transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=t5_vocab,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )
    generator = torch.Generator().manual_seed(seed)
    for model in (transformer, vae, clip, t5):
        randomise(model, generator)
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**SCHEDULERS[guidance]),
        vae=vae,
        text_encoder=clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    )


def save(
    pipeline: diffusers.FluxPipeline, folder: Path, *, max_shard_size: str | None = None
) -> Path:
    """`save_pretrained` of the pipeline, in shards if a size is given; returns the folder."""
    pipeline.save_pretrained(folder)
    if max_shard_size is not None:
        # The pipeline's own save_pretrained does not hand a shard size on to the text encoders.
        for part in ("transformer", "text_encoder", "text_encoder_2"):
            shutil.rmtree(folder / part)
            model = getattr(pipeline, part)
            model.save_pretrained(folder / part, max_shard_size=max_shard_size)
    return folder


@torch.no_grad()
def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Weights that make every part of a model matter: no zero bias, no norm of exactly one."""
    for name, weight in model.named_parameters():
        value = torch.randn(weight.shape, generator=generator)
        if weight.ndim <= 1:
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            weight.copy_(centre + 0.1 * value)
        else:
            weight.copy_(value / weight[0].numel() ** 0.5)


def letter_tokenizers() -> tuple[Any, Any]:
    """CLIP and T5 tokenizers of single characters, in the formats of FLUX's own."""
    letters = sorted(set(string.ascii_lowercase + string.digits + ".,-'"))
    clip_words = [*letters, *(letter + "</w>" for letter in letters)]
    clip = transformers.CLIPTokenizer(
        vocab={
            word: index
            for index, word in enumerate([*clip_words, "<|startoftext|>", "<|endoftext|>"])
        },
        merges=[],
        model_max_length=77,
    )
    t5 = transformers.T5TokenizerFast(
        vocab=[
            ("<pad>", 0.0),
            ("</s>", 0.0),
            ("<unk>", -10.0),
            ("▁", -2.0),
            *((letter, -3.0) for letter in letters),
        ],
        extra_ids=0,
        model_max_length=512,
    )
    return clip, t5
