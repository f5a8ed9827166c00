"""A stack of blocks, with or without rematerialisation: a loop, or written out one by one.

Blocks stacked on a leading axis are run by a scan: compiled once, however many there are. Blocks
that are unrolled, a tuple, are written out. That takes longer to compile and runs faster: no slices
of stacked weights are copied, and what nobody reads is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ea_jax.flux import axes, cpu, layers
from ea_jax.flux.adapters import padded


def unrolled(weights: dict[str, Any], *, transposes: bool = False) -> dict[str, Any]:
    """A transformer's weights unrolled: in place of each stack a tuple of blocks.

    Such a model is written out block by block where stacked weights run in a scan: it takes
    longer to compile and runs faster, which pays where blocks are small and few.

    Args:
      weights: stacked.
      transposes: each kernel gets its transpose as `kernel_T` beside it, for a frozen model
        through which gradients pass, see `cpu.product`.
    """

    def blocks(stack):
        return tuple(
            block(jax.tree.map(lambda leaf, i=i: leaf[i], stack))
            for i in range(len(jax.tree.leaves(stack)[0]))
        )

    def block(tree):
        if not transposes or not isinstance(tree, dict):
            return tree
        beside = {"kernel_T": tree["kernel"].T} if "kernel" in tree else {}
        return {name: block(part) for name, part in tree.items()} | beside

    return {name: blocks(part) if name in layers.BLOCKS else part for name, part in weights.items()}


def run_blocks(
    body: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    weights: Any,
    lora: Any,
    *,
    remat: str,
    last_body: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None,
) -> tuple[Any, Any]:
    """Runs one block after another.

    Args:
      body: (carry, a block's weights, its adapters) -> (carry, what the block leaves).
      carry: the streams.
      weights: of all blocks, stacked, or a tuple of each block's.
      lora: adapters, stacked, of all blocks or the first ones; or None.
      remat: what a backward pass computes again: `none`, `block`, or all but products (`dots`).
      last_body: runs the last block in the place of `body`, where blocks are unrolled; it may leave
        out what is not read after it, also of the carry.
    Returns:
      The last carry, and what the blocks left, stacked.
    Raises:
      ValueError: an unknown `remat`.
    """
    written_out = isinstance(weights, tuple)
    policies = {"block": None, "dots": jax.checkpoint_policies.dots_saveable}
    if axes.is_gathering():
        # What a block gathered would otherwise be kept for the backward pass: of all blocks, all
        # of their weights.
        policies["none"] = lambda primitive, *_, **__: primitive.name != "sharding_constraint"
    if remat in policies:
        # The scan already keeps a block's recomputation apart from its first run.
        wrap = functools.partial(jax.checkpoint, policy=policies[remat], prevent_cse=written_out)
        body, last_body = wrap(body), last_body and wrap(last_body)
    elif remat != "none":
        raise ValueError(f"remat {remat!r} is unknown; choose from ['none', 'block', 'dots']")
    lora = padded(lora, len(weights) if written_out else len(jax.tree.leaves(weights)[0]))
    if not written_out:
        return jax.lax.scan(lambda carry, layer: body(carry, *layer), carry, (weights, lora))
    # One trace serves all blocks, which are alike; XLA writes the calls out.
    body, last_body = jax.jit(body), last_body and jax.jit(last_body)
    outs = []
    for index, block in enumerate(weights):
        run = last_body if last_body and index == len(weights) - 1 else body
        carry, out = run(cpu.border(carry), block, jax.tree.map(lambda x, i=index: x[i], lora))
        outs.append(out)
    return carry, jax.tree.map(lambda *xs: jnp.stack(xs), *outs)
