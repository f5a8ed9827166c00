"""One step of a search for embeddings that paint a concept without its word.

Textual inversion, but for its target: not the noise of a picture, but the velocity that the frozen
model has under the word itself. A method searches what it will erase next, an attack what an
erasure has left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ea_jax.flux import euler
from ea_jax.flux.columns import Columns
from ea_jax.flux.transformer import Text, dtype_of
from ea_jax.methods import losses
from ea_jax.methods.forward import Forward, velocity_of
from ea_jax.runtime.streams import normal

# What is painted is decided at high noise.
LOWEST_T = 0.5


class Batch(struct.PyTreeNode):
    """One step's pictures of the concept, the sentences that made them, and its tokens there.

    Attributes:
      latent_BSC: clean and packed.
      seed_B: uint32, of each row's noise level and noise.
    """

    latent_BSC: jax.Array
    text: Text
    columns: Columns
    seed_B: jax.Array


def search_step(
    optimiser: optax.GradientTransformation, *, scale: float, forward: Forward
) -> Callable[..., tuple[jax.Array, Any, jax.Array]]:
    """A step of the search, to be jitted.

    Args:
      optimiser: of the embeddings.
      scale: root mean square of the embeddings that are searched.
      forward: what is static about a pass through the model.
    Returns:
      (u_BND, opt_state, base, lora, batch, edited=None) -> (u_BND, opt_state, error_B). `u_BND`
      times `scale` stands in the place of T5's outputs at the concept's tokens. `lora` are adapters
      of the model that is searched, and `edited` its weights, where they are others than `base`.
    """

    def step(u_BND, opt_state, base, lora, batch: Batch, edited=None):
        x_BSC, t_B, _ = noised(batch.latent_BSC, batch.seed_B)
        t_B = euler.model_time(t_B, dtype_of(base))
        target, _ = velocity_of(base, None, x_BSC, t_B, batch.text, forward)

        def loss(u_BND):
            t5_BTD = batch.text.t5_BTD.astype(jnp.float32)
            text = batch.text.replace(t5_BTD=batch.columns.placed(t5_BTD, scale * u_BND))
            searched = base if edited is None else edited
            v, _ = velocity_of(searched, lora, x_BSC, t_B, text, forward)
            error_B = losses.velocity_error(v, target)
            return error_B.sum(), error_B

        grads, error_B = jax.grad(loss, has_aux=True)(u_BND)
        updates, opt_state = optimiser.update(grads, opt_state)
        moved_BND: Any = optax.apply_updates(u_BND, updates)
        return unit(moved_BND), opt_state, error_B

    return step


def noised(
    latent_BSC: jax.Array, seed_B: jax.Array, lowest: float = LOWEST_T
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x_t, t in [lowest, 1] and the noise of each picture, by its seed."""

    def one(latent_SC, seed):
        t_key, noise_key = jax.random.split(jax.random.key(seed))
        t = jax.random.uniform(t_key, minval=lowest)
        noise_SC = normal(noise_key, latent_SC.shape)
        return (1 - t) * latent_SC + t * noise_SC, t, noise_SC

    return jax.vmap(one)(latent_BSC, seed_B)


def unit(u_BND: jax.Array) -> jax.Array:
    """Each embedding with a root mean square of 1."""
    return u_BND / jnp.sqrt(jnp.square(u_BND).mean(-1, keepdims=True))
