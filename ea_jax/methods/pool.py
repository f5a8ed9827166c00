"""The trajectory pool of a run: paths that the frozen model begins, and what steps train there.

Whose velocity carries them on, the method says: the frozen model's or the student's.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ea_jax.concepts.bank import draw
from ea_jax.flux import euler
from ea_jax.flux.transformer import Text, dtype_of
from ea_jax.methods import trajectories
from ea_jax.methods.forward import Forward, velocity_of
from ea_jax.methods.pictures import FIRST_SEED
from ea_jax.methods.ready import Ready, run_key
from ea_jax.methods.trajectories import Turns, Visit
from ea_jax.runtime import compiler
from ea_jax.runtime.mesh import batch_parts, pad_rows, sharding
from ea_jax.runtime.streams import normal, stream

_log = logging.getLogger(__name__)
_POOL_KEY = 1  # of the run's key
_PATH, _NOISE, _VISIT = 301, 302, 303  # streams of `Paths`


class Batch(struct.PyTreeNode):
    """One step's places in the pool, and its prompts.

    Attributes:
      member_B, fresh_B, index_B, weight_B: see `erase_anything.steps.LowerBatch`.
      text, anchor: sentences with the concept, and prompts without it.
      seed: uint32, of the noise.
    """

    member_B: jax.Array
    fresh_B: jax.Array
    index_B: jax.Array
    weight_B: jax.Array
    text: Text
    anchor: Text
    seed: jax.Array


class Place(struct.PyTreeNode):
    """Where a batch stands: x_t [B, S, C] float32, t as the model is told it, the step from it."""

    x_BSC: jax.Array
    t_B: jax.Array
    delta_B: jax.Array


@dataclasses.dataclass(frozen=True)
class Paths:
    """A run's paths under the concept's sentences, taken in turn; one of one step, then the next.

    Attributes:
      ready: prompts and model.
      turns: of the pool; a path may end before the schedule does.
    """

    ready: Ready
    turns: Turns

    @classmethod
    def of(cls, ready: Ready, *, share: float = 1.0) -> Paths:
        """A run's; `share` of the schedule's steps are walked, from pure noise on, at least one."""
        settings, steps = ready.settings, len(ready.forward.sigmas) - 1
        walked = max(1, round(share * steps))
        return cls(ready, Turns(settings.data.pool, settings.optim.batch, walked))

    def row(self, member: int, path: int) -> int:
        """The bank's row whose sentence a member of the pool follows on its `path`-th path."""
        return self.ready.bank.drawn(self.ready.settings.optim.seed, _PATH, member, path)

    def visit_row(self, visit: Visit) -> int:
        """The row that a visit trains: the path's sentence, in any order of words, by any name."""
        bank, path = self.ready.bank, self.row(visit.member, visit.round)
        same = bank.rows(concept=int(bank.concept_G[path]), sentence=int(bank.sentence_G[path]))
        seed = self.ready.settings.optim.seed
        return draw(same, seed, _VISIT, visit.member, visit.round, visit.index)

    def blank(self) -> jax.Array:
        """Zeros of the pool's shape, [P, S, C]."""
        return jnp.zeros((self.turns.members, *self.ready.forward.latent_shape), jnp.float32)

    def first(self, weights: Any) -> jax.Array:
        """The pool before the first step; see `first_pool`."""
        return first_pool(self.ready, weights, self.turns, self.row)

    def fields(self, step: int) -> dict[str, Any]:
        """What a `Batch` holds at a step, from 0; rows are filled up to share them evenly."""
        bank, seed = self.ready.bank, self.ready.settings.optim.seed
        visits = self.turns.visits(step)
        rows = [self.visit_row(visit) for visit in visits]
        content = {
            "member_B": np.array([visit.member for visit in visits], np.int32),
            "fresh_B": np.array([visit.fresh for visit in visits], bool),
            "index_B": np.array([visit.index for visit in visits], np.int32),
            "text": bank.text("target", rows),
            "anchor": bank.text("anchor", rows),
        }
        padded, weight_B = pad_rows(content, batch_parts(self.ready.mesh))
        noise = np.uint32(stream(seed, _NOISE, step).integers(FIRST_SEED, 2**32))
        return {"weight_B": weight_B, "seed": noise, **padded}


def place(pool_PSC: jax.Array, batch: Batch, forward: Forward, dtype: Any) -> Place:
    """Where a batch stands in a pool, for weights of `dtype`."""
    levels = euler.levels(forward.sigmas, dtype)
    noise_BSC = normal(jax.random.key(batch.seed), (len(batch.member_B), *pool_PSC.shape[1:]))
    return Place(
        trajectories.entered(pool_PSC, batch.member_B, batch.fresh_B, noise_BSC, dtype),
        levels.time_Z[batch.index_B],
        levels.delta_Z[batch.index_B],
    )


def walked(pool_PSC: jax.Array, batch: Batch, here: Place, v_BSC: jax.Array) -> jax.Array:
    """The pool with a batch's paths one step on, by the model's velocity there."""
    next_BSC = euler.step(here.x_BSC, v_BSC, here.delta_B[:, None, None])
    return trajectories.moved(pool_PSC, batch.member_B, batch.weight_B, next_BSC)


def teachers(base: Any, here: Place, texts: list[Text], forward: Forward) -> list[jax.Array]:
    """The frozen model's velocity at one place under several prompts, [B, S, C] each, at once."""
    rows = jax.tree.map(lambda *each: jnp.concatenate(each), *texts)
    count = len(texts)
    with jax.named_scope("teacher"):
        v, _ = velocity_of(
            base,
            None,
            jnp.tile(here.x_BSC, (count, 1, 1)),
            jnp.tile(here.t_B, count),
            rows,
            forward,
        )
    return jnp.split(v, count)


def first_pool(
    ready: Ready, weights: Any, turns: Turns, path_row: Callable[[int, int], int]
) -> jax.Array:
    """A run's pool before its first step, [P, S, C] float32: paths of the frozen model.

    Args:
      ready: the run's prompts and model.
      weights: the frozen model's.
      turns: of the pool.
      path_row: (member, its path) -> the bank's row that the path follows.
    """
    _log.info("staggering %d paths over the schedule", turns.members)
    s = ready.forward
    text = ready.bank.text("target", [path_row(member, 0) for member in range(turns.members)])

    def stagger(base, text, key):
        frozen = lambda x_PSC, t_P: velocity_of(base, None, x_PSC, t_P, text, s)[0]  # noqa: E731
        noise_PSC = normal(key, (turns.members, *s.latent_shape))
        return euler.follow(frozen, noise_PSC, s.sigmas, turns.offsets(), dtype=dtype_of(base))

    program = compiler.jit(stagger, ready.mesh, out_shardings=sharding(ready.mesh, ()))
    return program(weights, text, jax.random.fold_in(run_key(ready.settings), _POOL_KEY))
