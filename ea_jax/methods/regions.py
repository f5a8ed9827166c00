"""Where a concept is in its pictures: where the frozen model looks for it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ea_jax.flux import euler
from ea_jax.flux.transformer import Weights, dtype_of
from ea_jax.methods import layer_inputs, losses
from ea_jax.methods.forward import columns_of
from ea_jax.methods.ready import Ready
from ea_jax.methods.trajectories import noised
from ea_jax.runtime import compiler
from ea_jax.runtime.hosts import on_host
from ea_jax.runtime.mesh import batch_parts, pad_rows, put_rows, sharding
from ea_jax.runtime.metrics import NonFiniteError


def shown(ready: Ready, picked: np.ndarray) -> dict[str, Any]:
    """Some pictures of the concepts with their sentences, and the concept's tokens there."""
    pictures, bank = ready.pictures["concept"], ready.bank
    numbers = pictures.number_P[picked]
    return {
        "latent_BSC": pictures.latent_PSC[picked],
        "text": bank.text("plain", numbers),
        "columns": bank.columns("plain", numbers),
    }


def found(ready: Ready, weights: Weights, *, level: float, threshold: float) -> np.ndarray:
    """The image tokens that show each picture's concept, bool [P, S]; some in every picture.

    A token does where the attention that it pays to the concept's tokens, the mean over dual
    blocks, heads and those tokens, is at least `threshold` of the way from the least in the picture
    to the most.

    Args:
      ready: of the run, with pictures of its concepts.
      weights: the frozen transformer's.
      level: the noise level to look at, in [0, 1].
      threshold: in [0, 1].
    Raises:
      NonFiniteError: the model's attention is NaN or Inf.
    """

    def attended(base: Weights, rows: dict[str, Any], seed_B: jax.Array) -> jax.Array:
        dtype, t_B = dtype_of(base), jnp.full(len(seed_B), level, jnp.float32)
        noise_BSC = layer_inputs.noise(seed_B, forward=ready.forward, dtype=dtype)
        x_BSC = noised(rows["latent_BSC"], noise_BSC, t_B)
        feature_LBS = columns_of(
            *(base, None, x_BSC, euler.model_time(t_B, dtype), rows["text"], ready.forward),
            columns=rows["columns"],
            reduce=lambda cols, columns: losses.column_feature(
                cols, columns.mask_BN, image_tokens=x_BSC.shape[1]
            ),
        )
        return feature_LBS.mean(0)

    program = compiler.jit(attended, ready.mesh, out_shardings=sharding(ready.mesh, ()))
    numbers, maps = np.arange(len(ready.pictures["concept"].number_P)), []
    seeds = layer_inputs.seeds(ready, 0, len(numbers))
    size = ready.settings.sample.batch + -ready.settings.sample.batch % batch_parts(ready.mesh)
    for some in np.split(numbers, numbers[size::size]):
        padded, weight_B = pad_rows((shown(ready, some), seeds[some]), size)
        rows, seed_B = put_rows(ready.mesh, padded)
        maps.append(on_host(program(weights, rows, seed_B))[weight_B > 0])
    map_PS = np.concatenate(maps)
    low_P1, high_P1 = map_PS.min(-1, keepdims=True), map_PS.max(-1, keepdims=True)
    if not np.isfinite(map_PS).all():
        raise NonFiniteError("the attention to the concept in its own pictures is NaN or Inf")
    return map_PS >= np.minimum(low_P1 + threshold * (high_P1 - low_P1), high_P1)
