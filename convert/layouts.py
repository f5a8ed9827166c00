"""Name tables: where each module of our trees lies in other people's weight files.

A table maps a module's path in the tree to its name in the file. The longest path that fits wins,
what follows it is kept, and `{}` is the index of a block: the tree stacks blocks on a leading
axis, files number them. Leaves follow one mechanical rule (`Layout.leaves`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

_TORCH_LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight", "embedding": "weight"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """One file layout.

    Attributes:
      modules: path of a module in the tree -> its name in the file; "" is the tree's root.
      leaves: leaf in the tree -> last word of the tensor's name.
      fused: name in the file -> modules of the tree whose outputs it holds, in this order.
      swapped: names in the file whose two halves of outputs are in the other order.
    """

    modules: Mapping[str, str]
    leaves: Mapping[str, str] = dataclasses.field(default_factory=lambda: _TORCH_LEAVES)
    fused: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    swapped: frozenset[str] = frozenset()

    def module(self, module: str) -> str:
        """Name in the file of a module of the tree, `{}` in place of a block's index.

        Raises:
          KeyError: a module the table does not know.
        """
        prefix = module
        while prefix not in self.modules:
            if not prefix:
                raise KeyError(module)
            prefix = prefix.rpartition(".")[0]
        rest = module[len(prefix) :].lstrip(".")
        return ".".join(part for part in (self.modules[prefix], rest) if part)


# diffusers' FluxTransformer2DModel. Our tree has its names but for Sequential indices.
TRANSFORMER = Layout(
    {
        "": "",
        "transformer_blocks": "transformer_blocks.{}",
        "transformer_blocks.attn.to_out": "transformer_blocks.{}.attn.to_out.0",
        "transformer_blocks.ff.up": "transformer_blocks.{}.ff.net.0.proj",
        "transformer_blocks.ff.down": "transformer_blocks.{}.ff.net.2",
        "transformer_blocks.ff_context.up": "transformer_blocks.{}.ff_context.net.0.proj",
        "transformer_blocks.ff_context.down": "transformer_blocks.{}.ff_context.net.2",
        "single_transformer_blocks": "single_transformer_blocks.{}",
    }
)

# transformers' CLIPTextModel, without the `text_model.` that its older versions put in front.
CLIP = Layout(
    {
        "token_embedding": "embeddings.token_embedding",
        "position_embedding": "embeddings.position_embedding",
        "layers.norm1": "encoder.layers.{}.layer_norm1",
        "layers.norm2": "encoder.layers.{}.layer_norm2",
        "layers.attention.q": "encoder.layers.{}.self_attn.q_proj",
        "layers.attention.k": "encoder.layers.{}.self_attn.k_proj",
        "layers.attention.v": "encoder.layers.{}.self_attn.v_proj",
        "layers.attention.out": "encoder.layers.{}.self_attn.out_proj",
        "layers.mlp": "encoder.layers.{}.mlp",
        "final_norm": "final_layer_norm",
    }
)

# transformers' CLIPModel: both towers and their projections. The class token's vector is a bare
# parameter, and `pre_layrnorm` is its own spelling.
CLIP_TOWERS = Layout(
    {
        **{f"text.{path}": f"text_model.{name}" for path, name in CLIP.modules.items()},
        "text_projection": "text_projection",
        "vision": "vision_model.embeddings",
        "vision.pre_norm": "vision_model.pre_layrnorm",
        "vision.post_norm": "vision_model.post_layernorm",
        **{
            f"vision.{path}": f"vision_model.{name}"
            for path, name in CLIP.modules.items()
            if path.startswith("layers.")
        },
        "visual_projection": "visual_projection",
    },
    leaves={**_TORCH_LEAVES, "class_embedding": "class_embedding"},
)

# transformers' T5EncoderModel. Only the first block holds the relative position bias.
T5 = Layout(
    {
        "shared": "shared",
        "relative_attention_bias": (
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
        ),
        "block.attention": "encoder.block.{}.layer.0.SelfAttention",
        "block.attention.norm": "encoder.block.{}.layer.0.layer_norm",
        "block.ff": "encoder.block.{}.layer.1.DenseReluDense",
        "block.ff.norm": "encoder.block.{}.layer.1.layer_norm",
        "final_norm": "encoder.final_layer_norm",
    }
)

# transformers' MobileNetV2ForImageClassification. Blocks differ in shape: numbered, as the VAE's.
MOBILENET = Layout(
    {"": "mobilenet_v2", "classifier": "classifier"},
    leaves={**_TORCH_LEAVES, "mean": "running_mean", "var": "running_var"},
)

# diffusers' AutoencoderKL. Blocks differ in shape, so the tree keeps them apart, numbered.
VAE = Layout(
    {
        "": "",
        "encoder.mid_block.attentions.0.to_out": "encoder.mid_block.attentions.0.to_out.0",
        "decoder.mid_block.attentions.0.to_out": "decoder.mid_block.attentions.0.to_out.0",
    }
)

# Black Forest Labs' own single file of the transformer. Q, K, V are one projection there; in a
# single block the MLP's first layer belongs to it as well. The last AdaLN yields shift before
# scale, diffusers' scale before shift.
BLACK_FOREST_LABS = Layout(
    {
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
        "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
        "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
        "transformer_blocks.norm1.linear": "double_blocks.{}.img_mod.lin",
        "transformer_blocks.norm1_context.linear": "double_blocks.{}.txt_mod.lin",
        "transformer_blocks.attn.to_q": "double_blocks.{}.img_attn.qkv",
        "transformer_blocks.attn.to_k": "double_blocks.{}.img_attn.qkv",
        "transformer_blocks.attn.to_v": "double_blocks.{}.img_attn.qkv",
        "transformer_blocks.attn.add_q_proj": "double_blocks.{}.txt_attn.qkv",
        "transformer_blocks.attn.add_k_proj": "double_blocks.{}.txt_attn.qkv",
        "transformer_blocks.attn.add_v_proj": "double_blocks.{}.txt_attn.qkv",
        "transformer_blocks.attn.norm_q": "double_blocks.{}.img_attn.norm.query_norm",
        "transformer_blocks.attn.norm_k": "double_blocks.{}.img_attn.norm.key_norm",
        "transformer_blocks.attn.norm_added_q": "double_blocks.{}.txt_attn.norm.query_norm",
        "transformer_blocks.attn.norm_added_k": "double_blocks.{}.txt_attn.norm.key_norm",
        "transformer_blocks.attn.to_out": "double_blocks.{}.img_attn.proj",
        "transformer_blocks.attn.to_add_out": "double_blocks.{}.txt_attn.proj",
        "transformer_blocks.ff.up": "double_blocks.{}.img_mlp.0",
        "transformer_blocks.ff.down": "double_blocks.{}.img_mlp.2",
        "transformer_blocks.ff_context.up": "double_blocks.{}.txt_mlp.0",
        "transformer_blocks.ff_context.down": "double_blocks.{}.txt_mlp.2",
        "single_transformer_blocks.norm.linear": "single_blocks.{}.modulation.lin",
        "single_transformer_blocks.attn.to_q": "single_blocks.{}.linear1",
        "single_transformer_blocks.attn.to_k": "single_blocks.{}.linear1",
        "single_transformer_blocks.attn.to_v": "single_blocks.{}.linear1",
        "single_transformer_blocks.proj_mlp": "single_blocks.{}.linear1",
        "single_transformer_blocks.attn.norm_q": "single_blocks.{}.norm.query_norm",
        "single_transformer_blocks.attn.norm_k": "single_blocks.{}.norm.key_norm",
        "single_transformer_blocks.proj_out": "single_blocks.{}.linear2",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "proj_out": "final_layer.linear",
    },
    leaves={"kernel": "weight", "bias": "bias", "scale": "scale"},
    fused={
        "double_blocks.{}.img_attn.qkv": (
            "transformer_blocks.attn.to_q",
            "transformer_blocks.attn.to_k",
            "transformer_blocks.attn.to_v",
        ),
        "double_blocks.{}.txt_attn.qkv": (
            "transformer_blocks.attn.add_q_proj",
            "transformer_blocks.attn.add_k_proj",
            "transformer_blocks.attn.add_v_proj",
        ),
        "single_blocks.{}.linear1": (
            "single_transformer_blocks.attn.to_q",
            "single_transformer_blocks.attn.to_k",
            "single_transformer_blocks.attn.to_v",
            "single_transformer_blocks.proj_mlp",
        ),
    },
    swapped=frozenset({"final_layer.adaLN_modulation.1"}),
)
