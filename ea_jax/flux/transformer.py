"""The FLUX transformer (MMDiT): dual-stream blocks, then single-stream blocks.

Weights are a nested dict named after diffusers' `FluxTransformer2DModel`, with each kind of block
stacked on a leading layer axis, or `unrolled`. They are an argument of every function here, never a
constant; LoRA is a separate tree of the same paths, and `lora=None` is the frozen model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from ea_jax.flux import axes, layers
from ea_jax.flux.adapters import check as check_adapters
from ea_jax.flux.attention import check_backend
from ea_jax.flux.columns import ColumnGain, Columns
from ea_jax.flux.rope import rope_table
from ea_jax.flux.stack import run_blocks
from ea_jax.flux.transformer_config import TransformerConfig
from ea_jax.runtime.mesh import constrain

Weights = dict[str, Any]
Reduce = Callable[[jax.Array, Columns], Any]
Tap = Callable[[jax.Array], Any]


class Text(struct.PyTreeNode):
    """An encoded batch of prompts.

    Attributes:
      t5_BTD: T5's output for every position, padding included (FLUX attends to it).
      pooled_BD: CLIP's pooled output.
    """

    t5_BTD: jax.Array
    pooled_BD: jax.Array


class _Ends(nnx.Module):
    """What stands before and after the two stacks."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.x_embedder = layers.Linear(config.in_channels, width, rngs=rngs)
        self.context_embedder = layers.Linear(config.joint_attention_dim, width, rngs=rngs)
        self.time_text_embed = layers.TimeTextEmbed(
            width, config.pooled_projection_dim, config.guidance_embeds, rngs=rngs
        )
        self.norm_out = layers.Modulation(width, 2, rngs=rngs)
        self.proj_out = layers.Linear(width, config.in_channels, rngs=rngs)


@functools.lru_cache(maxsize=16)
def _graph(config: TransformerConfig, name: str, transposes: bool = False) -> Any:
    """Static structure of the ends or of one block of a stack, without its weights.

    Args:
      config: shape of the transformer.
      name: of a stack; "ends" for what stands around them.
      transposes: whether each layer has its kernel's transpose.
    """

    def make():
        if name == "ends":
            return _Ends(config, rngs=nnx.Rngs(0))
        block = layers.BLOCKS[name](config.width, config.num_attention_heads, rngs=nnx.Rngs(0))
        if transposes:
            for _, layer in nnx.iter_graph(block):
                if isinstance(layer, layers.Linear):
                    layer.kernel_T = nnx.Param(layer.kernel[...].T)
        return block

    return nnx.graphdef(nnx.eval_shape(make))


def _block(config: TransformerConfig, name: str, weights: Weights) -> Any:
    """A block of a stack, from its own weights."""
    norm = weights["norm1" if "norm1" in weights else "norm"]
    graph = _graph(config, name, "kernel_T" in norm["linear"])
    return nnx.merge(graph, axes.gathered(weights, name))


def init_weights(
    config: TransformerConfig, key: jax.Array, dtype: jnp.dtype = jnp.float32
) -> Weights:
    """Random weights (LeCun normal, zero biases), cast to `dtype`."""
    width, heads = config.width, config.num_attention_heads
    end_key, dual_key, single_key = jax.random.split(key, 3)

    def block_weights(block, keys):
        make = lambda k: nnx.to_pure_dict(nnx.state(block(width, heads, rngs=nnx.Rngs(k))))  # noqa: E731
        return jax.vmap(make)(keys)

    weights = dict(nnx.to_pure_dict(nnx.state(_Ends(config, rngs=nnx.Rngs(end_key)))))
    weights["transformer_blocks"] = block_weights(
        layers.DualBlock, jax.random.split(dual_key, config.num_layers)
    )
    weights["single_transformer_blocks"] = block_weights(
        layers.SingleBlock, jax.random.split(single_key, config.num_single_layers)
    )
    return jax.tree.map(lambda x: x.astype(dtype), weights)


def abstract_weights(config: TransformerConfig, dtype: jnp.dtype = jnp.float32) -> Weights:
    """The tree of `init_weights` as ShapeDtypeStructs: a template to load into."""
    return jax.eval_shape(lambda: init_weights(config, jax.random.key(0), dtype))


def dtype_of(weights: Weights) -> Any:
    """The dtype of a transformer's weights, which its activations take."""
    return weights["x_embedder"]["kernel"].dtype


class Inputs(struct.PyTreeNode):
    """What the stacks read: both streams embedded, the conditioning, the rotary table."""

    image_BSD: jax.Array
    text_BTD: jax.Array
    temb_BD: jax.Array
    rope: tuple[jax.Array, jax.Array]


def embed(
    weights: Weights,
    config: TransformerConfig,
    x_BSC: jax.Array,
    t_B: jax.Array,
    text: Text,
    *,
    grid: tuple[int, int],
    guidance_B: jax.Array | None,
    lora: layers.Adapters | None,
) -> Inputs:
    """Embeds latents, text and conditioning; arguments as for `velocity`."""
    if (guidance_B is not None) != config.guidance_embeds:
        raise ValueError(
            f"guidance is {'given' if guidance_B is not None else 'None'}, but the model has "
            f"guidance_embeds={config.guidance_embeds}; dev takes a guidance, schnell none"
        )
    if grid[0] * grid[1] != x_BSC.shape[1]:
        raise ValueError(f"grid {grid} does not hold the {x_BSC.shape[1]} tokens of x")
    if lora is not None:
        # An adapter that matches no layer would do nothing, without a word.
        check_adapters(lora, weights)
    dtype = dtype_of(weights)
    ends = _merge_ends(weights, config)
    table = rope_table(text.t5_BTD.shape[1], grid, config.axes_dims_rope)
    temb_BD = ends.time_text_embed(
        t_B, guidance_B, text.pooled_BD.astype(dtype), lora=layers.part(lora, "time_text_embed")
    )
    return Inputs(
        image_BSD=_rows(layers.project(ends.x_embedder, x_BSC.astype(dtype), lora, "x_embedder")),
        text_BTD=_rows(
            layers.project(
                ends.context_embedder, text.t5_BTD.astype(dtype), lora, "context_embedder"
            )
        ),
        temb_BD=constrain(temb_BD, ("batch", "channels")),
        rope=(jnp.asarray(table[0]), jnp.asarray(table[1])),
    )


def dual_stack(
    weights: Weights,
    config: TransformerConfig,
    inputs: Inputs,
    *,
    lora: layers.Adapters | None = None,
    columns: Columns | None = None,
    reduce: Reduce | None = None,
    tap: Tap | None = None,
    gain_BT: jax.Array | None = None,
    attention: str = "chunked",
    remat: str = "none",
) -> tuple[jax.Array, jax.Array, Any]:
    """Runs the dual-stream blocks.

    Returns:
      The image stream [B, S, D], the text stream [B, T, D], and the results of `reduce` or `tap`
      stacked over blocks (None without `columns` and without `tap`).
    Raises:
      ValueError: both `columns` and a `tap`.
    """
    name = "transformer_blocks"
    if columns is not None and tap is not None:
        raise ValueError("a pass hands out columns or what a tap makes of inputs; ask for one")

    def body(streams, weights, lora):
        block = _block(config, name, weights)
        handed = None if tap is None else tap(block.text_input(streams[1], inputs.temb_BD, lora))
        image, text, cols = block(
            *streams,
            inputs.temb_BD,
            rope=inputs.rope,
            lora=lora,
            columns=columns,
            gain_BT=gain_BT,
            backend=attention,
        )
        image, text = _rows(image), _rows(text)
        if columns is None:
            return (image, text), handed
        return (image, text), cols if reduce is None else reduce(cols, columns)

    streams = inputs.image_BSD, inputs.text_BTD
    (image, text), reduced = run_blocks(
        body, streams, weights[name], layers.part(lora, name), remat=remat
    )
    return image, text, reduced


def single_stack(
    weights: Weights,
    config: TransformerConfig,
    inputs: Inputs,
    joint_BSD: jax.Array,
    *,
    lora: layers.Adapters | None = None,
    gain_BT: jax.Array | None = None,
    attention: str = "chunked",
    remat: str = "none",
) -> jax.Array:
    """Runs the single-stream blocks on text and image joined, text first; returns the image."""
    name = "single_transformer_blocks"

    def body(joint, weights, lora, start=0):
        block = _block(config, name, weights)
        joint = block(
            joint,
            inputs.temb_BD,
            rope=inputs.rope,
            lora=lora,
            gain_BT=gain_BT,
            backend=attention,
            start=start,
        )
        return _rows(joint), None

    adapters = layers.part(lora, name)
    last = functools.partial(body, start=inputs.text_BTD.shape[1])
    joint_BSD, _ = run_blocks(body, joint_BSD, weights[name], adapters, remat=remat, last_body=last)
    return joint_BSD[:, -inputs.image_BSD.shape[1] :]  # a scan keeps the text's rows


def head(
    weights: Weights,
    config: TransformerConfig,
    image_BSD: jax.Array,
    temb_BD: jax.Array,
    *,
    lora: layers.Adapters | None = None,
) -> jax.Array:
    """The last AdaLN (scale before shift, as in diffusers) and the projection to latents."""
    ends = _merge_ends(weights, config)
    scale, shift = ends.norm_out(temb_BD, layers.part(lora, "norm_out"))
    return layers.project(ends.proj_out, layers.modulate(image_BSD, shift, scale), lora, "proj_out")


def velocity(
    weights: Weights,
    config: TransformerConfig,
    x_BSC: jax.Array,
    t_B: jax.Array,
    text: Text,
    *,
    grid: tuple[int, int],
    guidance_B: jax.Array | None = None,
    lora: layers.Adapters | None = None,
    columns: Columns | None = None,
    reduce: Reduce | None = None,
    tap: Tap | None = None,
    column_gain: ColumnGain | None = None,
    attention: str = "chunked",
    remat: str = "none",
) -> tuple[jax.Array, Any]:
    """Velocity n - x0 that the model predicts at noise level t.

    Args:
      weights: tree of `init_weights`; activations take its dtype.
      config: shape of the model.
      x_BSC: packed noisy latents, S = rows * columns of `grid`.
      t_B: noise level in [0, 1], 1 is pure noise.
      text: encoded prompts.
      grid: rows and columns of packed tokens.
      guidance_B: distilled guidance scale (3.5 is usual); None for a model without it.
      lora: adapters, alpha / rank and strength already folded in; None is the frozen model.
      columns: concept positions whose attention columns are wanted from the dual blocks.
      reduce: applied to a block's columns [B, H, T + S, N] and `columns` inside the scan, so
        that only its result is kept; None keeps the columns.
      tap: in their place, applied inside the scan to what each dual block's text projections are
        given, [B, T, D].
      column_gain: factors on text columns, one for dual and one for single blocks.
      attention: name of the attention backend.
      remat: what a backward pass recomputes: `none`, `block` (all of it) or `dots` (all but
        matrix products).
    Returns:
      [B, S, C] velocity, and the results of `reduce` or `tap` with a leading layer axis (None
      without columns and without a tap).
    Raises:
      ValueError: unknown backend or remat policy, guidance that doesn't fit the model, a grid
        that doesn't fit x, or both columns and a tap.
      AdapterError: an adapter without its layer.
    """
    check_backend(attention)
    gain = column_gain or ColumnGain()
    inputs = embed(weights, config, x_BSC, t_B, text, grid=grid, guidance_B=guidance_B, lora=lora)
    how = {"lora": lora, "attention": attention, "remat": remat}
    asked = {"columns": columns, "reduce": reduce, "tap": tap}
    image, txt, reduced = dual_stack(weights, config, inputs, gain_BT=gain.dual_BT, **asked, **how)
    joint = _rows(jnp.concatenate([txt, image], axis=1))
    image = single_stack(weights, config, inputs, joint, gain_BT=gain.single_BT, **how)
    return head(weights, config, image, inputs.temb_BD, lora=lora), reduced


def dual_columns(
    weights: Weights,
    config: TransformerConfig,
    x_BSC: jax.Array,
    t_B: jax.Array,
    text: Text,
    columns: Columns,
    *,
    grid: tuple[int, int],
    guidance_B: jax.Array | None = None,
    lora: layers.Adapters | None = None,
    reduce: Reduce | None = None,
    attention: str = "chunked",
    remat: str = "none",
) -> Any:
    """Columns of the dual blocks only: the single blocks are not run. Arguments as `velocity`."""
    inputs = embed(weights, config, x_BSC, t_B, text, grid=grid, guidance_B=guidance_B, lora=lora)
    how = {"lora": lora, "attention": attention, "remat": remat}
    return dual_stack(weights, config, inputs, columns=columns, reduce=reduce, **how)[2]


def _merge_ends(weights: Weights, config: TransformerConfig) -> _Ends:
    ends = {name: leaf for name, leaf in weights.items() if name not in layers.BLOCKS}
    return nnx.merge(_graph(config, "ends"), axes.gathered(ends))


def _rows(x_BSD: jax.Array) -> jax.Array:
    """A stream at a block's border: split over a mesh by rows alone."""
    return constrain(x_BSD, ("batch", "sequence", "channels"))
