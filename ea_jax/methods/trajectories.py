"""Where each member of the trajectory pool stands, and how latents move along the schedule.

L_esd wants x_t on the model's own denoising path for the concept. Sampling that path anew at
every step costs up to 28 forwards; a pool of paths in progress costs none, because the velocity
that a training step computes anyway also carries its member one step down the schedule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ea_jax.flux import euler
from ea_jax.runtime.streams import normal


@dataclasses.dataclass(frozen=True)
class Visit:
    """One member's turn in a lower step.

    Attributes:
      member: which path.
      index: step of the schedule it stands at; t = sigmas[index].
      round: how many paths this member has finished.
      fresh: the path starts here, from noise.
    """

    member: int
    index: int
    round: int

    @property
    def fresh(self) -> bool:
        return self.index == 0


@dataclasses.dataclass(frozen=True)
class Turns:
    """Takes the members of a pool in turn, `batch` of them a step, staggered over the schedule.

    A pure function of the step, so a resumed run needs nothing but the step to go on.

    Attributes:
      members: size of the pool.
      batch: members trained in one lower step; divides `members`.
      steps: length of the sampling schedule.
    """

    members: int
    batch: int
    steps: int

    def __post_init__(self) -> None:
        if self.members < 1 or self.batch < 1 or self.members % self.batch:
            raise ValueError(
                f"a trajectory pool of {self.members} cannot be taken {self.batch} at a time; "
                "optim.batch must divide data.pool"
            )

    @property
    def period(self) -> int:
        """Lower steps between two visits of the same member."""
        return self.members // self.batch

    def offset(self, member: int) -> int:
        """Index at which a member's first path is entered."""
        return member * self.steps // self.members

    def offsets(self) -> np.ndarray:
        """`offset` of each member, [P]."""
        return np.array([self.offset(member) for member in range(self.members)])

    def visits(self, step: int) -> list[Visit]:
        """The members that lower step `step` (from 0) trains."""
        first = step % self.period * self.batch
        visited = []
        for member in range(first, first + self.batch):
            position = self.offset(member) + step // self.period
            visited.append(Visit(member, position % self.steps, position // self.steps))
        return visited


def entered(
    pool_PSC: jax.Array,
    member_B: jax.Array,
    fresh_B: jax.Array,
    noise_BSC: jax.Array,
    dtype: Any,
) -> jax.Array:
    """The latents of a batch's members, or noise where a path begins, as weights of `dtype` see it.

    Returns:
      [B, S, C] float32.
    """
    x_BSC = jnp.where(fresh_B[:, None, None], noise_BSC, pool_PSC[member_B])
    return euler.rounded(x_BSC, dtype)


def moved(
    pool_PSC: jax.Array, member_B: jax.Array, weight_B: jax.Array, next_BSC: jax.Array
) -> jax.Array:
    """The pool with a batch's members where they are next.

    A row that only fills up the batch (weight 0) is a copy of a real one: it moves no member.
    """
    member_B = jnp.where(weight_B > 0, member_B, len(pool_PSC))
    return pool_PSC.at[member_B].set(next_BSC, mode="drop")


class Noised(struct.PyTreeNode):
    """Pictures at a noise level.

    Attributes:
      x_BSC: x_t, float32.
      velocity_BSC: noise less picture, float32: what flow matching learns there.
      t_B: as the model is told it.
    """

    x_BSC: jax.Array
    velocity_BSC: jax.Array
    t_B: jax.Array


def drawn(
    noise_key: jax.Array,
    t_key: jax.Array,
    x0_BSC: jax.Array,
    *,
    how: str,
    sigmas: Sequence[float],
    dtype: Any,
) -> Noised:
    """Clean latents, each at a noise level and with a noise of its own, for weights of `dtype`.

    Args:
      noise_key, t_key: of the draws.
      x0_BSC: clean and packed.
      how, sigmas: see `noise_levels`.
      dtype: of the weights.
    """
    noise_BSC = normal(noise_key, x0_BSC.shape)
    t_B = noise_levels(t_key, len(x0_BSC), how, sigmas)
    x_BSC = noised(x0_BSC, noise_BSC, t_B)
    return Noised(x_BSC, noise_BSC - x0_BSC, euler.model_time(t_B, dtype))


def noise_levels(key: jax.Array, rows: int, how: str, sigmas: Sequence[float]) -> jax.Array:
    """Noise levels [rows] in (0, 1] to keep pictures at.

    Args:
      key: of the draw.
      rows: how many.
      how: `uniform`, k / 1000 for k in 1..1000; `logit_normal`, the logistic of a normal number;
        `sampler`, one of `sigmas` but the last: they stand closer together at high noise, where
        layout and colours are decided.
      sigmas: the sampler's noise levels from 1 down to 0.
    """
    if how == "logit_normal":
        return jax.nn.sigmoid(jax.random.normal(key, (rows,)))
    if how == "sampler":
        return jax.random.choice(key, jnp.array(sigmas[:-1], jnp.float32), (rows,))
    return jax.random.randint(key, (rows,), 1, 1001) / 1000.0


def noised(x0_BSC: jax.Array, noise_BSC: jax.Array, t_B: jax.Array) -> jax.Array:
    """Clean latents at noise levels t, [B, S, C] float32: (1 - t) x0 + t noise."""
    t_B11 = t_B[:, None, None]
    return (1 - t_B11) * x0_BSC.astype(jnp.float32) + t_B11 * noise_BSC
