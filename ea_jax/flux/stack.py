"""A stack of blocks as a loop over stacked weights, with or without rematerialisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ea_jax.flux import axes


def scan_blocks(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, stack: Any, *, remat: str, unroll: bool
) -> tuple[Any, Any]:
    """Runs one block after another.

    Args:
      body: (carry, a block's leaves) -> (carry, what the block leaves).
      carry: the streams.
      stack: leaves of all blocks, stacked.
      remat: what a backward pass computes again: `none`, `block`, or all but products (`dots`).
      unroll: each block a program of its own, in place of a loop.
    Returns:
      The last carry, and what the blocks left, stacked.
    Raises:
      ValueError: an unknown `remat`.
    """
    policies = {"block": None, "dots": jax.checkpoint_policies.dots_saveable}
    if axes.is_gathering():
        # What a block gathered would otherwise be kept for the backward pass: of all blocks, all
        # of their weights.
        policies["none"] = lambda primitive, *_, **__: primitive.name != "sharding_constraint"
    if remat in policies:
        # The scan already keeps a block's recomputation apart from its first run.
        body = jax.checkpoint(body, policy=policies[remat], prevent_cse=unroll)
    elif remat != "none":
        raise ValueError(f"remat {remat!r} is unknown; choose from ['none', 'block', 'dots']")
    if not unroll:
        return jax.lax.scan(body, carry, stack)
    outs = []
    for index in range(jax.tree.leaves(stack)[0].shape[0]):
        carry, out = body(carry, jax.tree.map(lambda x, i=index: x[i], stack))
        outs.append(out)
    return carry, jax.tree.map(lambda *xs: jnp.stack(xs), *outs)
