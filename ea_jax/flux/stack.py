"""A stack of blocks, with or without rematerialisation: a loop, or written out one by one.

Blocks stacked on a leading axis are run by a scan: compiled once, however many there are. Blocks
that are apart, a tuple, are written out. That takes longer to compile and runs faster: no slices
of stacked weights are copied, and what nobody reads is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ea_jax.flux import axes


def run_blocks(
    body: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    weights: Any,
    lora: Any,
    *,
    remat: str,
) -> tuple[Any, Any]:
    """Runs one block after another.

    Args:
      body: (carry, a block's weights, its adapters) -> (carry, what the block leaves).
      carry: the streams.
      weights: of all blocks, stacked, or a tuple of each block's.
      lora: adapters of all blocks, stacked; or None.
      remat: what a backward pass computes again: `none`, `block`, or all but products (`dots`).
    Returns:
      The last carry, and what the blocks left, stacked.
    Raises:
      ValueError: an unknown `remat`.
    """
    apart = isinstance(weights, tuple)
    policies = {"block": None, "dots": jax.checkpoint_policies.dots_saveable}
    if axes.is_gathering():
        # What a block gathered would otherwise be kept for the backward pass: of all blocks, all
        # of their weights.
        policies["none"] = lambda primitive, *_, **__: primitive.name != "sharding_constraint"
    if remat in policies:
        # The scan already keeps a block's recomputation apart from its first run.
        body = jax.checkpoint(body, policy=policies[remat], prevent_cse=apart)
    elif remat != "none":
        raise ValueError(f"remat {remat!r} is unknown; choose from ['none', 'block', 'dots']")
    if not apart:
        return jax.lax.scan(lambda carry, layer: body(carry, *layer), carry, (weights, lora))
    outs = []
    for index, block in enumerate(weights):
        carry, out = body(_border(carry), block, jax.tree.map(lambda x, i=index: x[i], lora))
        outs.append(out)
    return carry, jax.tree.map(lambda *xs: jnp.stack(xs), *outs)


@jax.custom_vjp
def _border(carry: Any) -> Any:
    """The streams as they are; their cotangents are written down.

    XLA would compute a cotangent anew, through all blocks behind it, wherever one is read.
    """
    return carry


_border.defvjp(lambda carry: (carry, None), lambda _, grad: (jax.lax.optimization_barrier(grad),))
