"""The loop all of flux-tiny's trainers share: pure steps over batches, resumable, with time left.

A batch depends on the step's number alone, so a run that was cut off goes on with the same bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ea_jax.runtime.checkpoints import Checkpoints
from ea_jax.runtime.metrics import MetricsLog, Watch, require_finite
from ea_jax.runtime.progress import Progress

log = logging.getLogger(__name__)

_ADVICE = "Go on from it with a lower learning_rate"

Weights = dict[str, Any]


@dataclass(frozen=True)
class LoopConfig:
    """How long a stage trains, and how often it speaks and saves."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int
    weight_decay: float
    ema: float
    log_every: int
    save_every: int
    seed: int


class State(struct.PyTreeNode):
    """Everything a trainer needs to go on: float32 weights, their running average, optimiser."""

    weights: Any
    average: Any
    optimiser: Any


def optimiser(config: LoopConfig) -> optax.GradientTransformation:
    """AdamW with clipping at 1, linear warm-up, cosine decay to zero."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup,
        decay_steps=config.steps,
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.98, weight_decay=config.weight_decay, mask=_decayed),
    )


def _decayed(weights: Weights) -> Any:
    # Biases, norms and the T5 position bias hold no direction worth shrinking.
    return jax.tree.map_with_path(
        lambda path, _: getattr(path[-1], "key", None) in ("kernel", "embedding"), weights
    )


def data_mesh() -> Mesh:
    """All devices, to share a batch's parts. A CPU of two devices works on two parts at once."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def start(
    weights: Weights,
    config: LoopConfig,
    transform: optax.GradientTransformation | None = None,
    mesh: Mesh | None = None,
) -> State:
    """The state before the first step; `transform` and `mesh` as for `make_step`."""
    transform = transform or optimiser(config)
    state = State(
        weights=weights,
        average=jax.tree.map(jnp.copy, weights),
        optimiser=transform.init(weights),
    )
    return state if mesh is None else jax.device_put(state, NamedSharding(mesh, P()))


def make_step(
    loss: Callable[[Weights, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]],
    config: LoopConfig,
    transform: optax.GradientTransformation | None = None,
    split: Callable[[Any], tuple[Any, Callable[[Any], Any]]] | None = None,
    mesh: Mesh | None = None,
) -> Callable[[State, Any, jax.Array], tuple[State, dict[str, jax.Array]]]:
    """A jitted step that minimises `loss(weights, batch, key) -> (scalar, terms)`.

    Args:
      loss: to be minimised.
      config: the stage's schedule.
      transform: optimiser in place of `optimiser(config)`.
      split: batch -> (stacked parts, part -> batch): gradients are averaged over the parts one by
        one. On a CPU small parts stay in its cache.
      mesh: of one axis `data`, over whose devices the parts are dealt; where their number is no
        multiple of the devices', each device computes them all.
    """
    transform = transform or optimiser(config)
    differentiate = jax.value_and_grad(loss, has_aux=True)

    def averaged(weights: Weights, batch: Any, key: jax.Array) -> Any:
        if split is None:
            return differentiate(weights, batch, key)
        parts, join = split(batch)
        count = len(jax.tree.leaves(parts)[0])
        shared = mesh is not None and count % mesh.size == 0

        def mean(weights, parts, keys):
            def add(total, part_and_key):
                part, part_key = part_and_key
                found = differentiate(weights, join(part), part_key)
                return jax.tree.map(lambda a, b: a + b / count, total, found), None

            first = jax.tree.map(lambda x: x[0], parts)
            shapes = jax.eval_shape(differentiate, weights, join(first), keys[0])
            zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            total = jax.lax.scan(add, zero, (parts, keys))[0]
            return jax.lax.psum(total, "data") if shared else total

        if shared:
            dealt = P("data")
            mean = jax.shard_map(
                mean, mesh=mesh, in_specs=(P(), dealt, dealt), out_specs=P(), check_vma=False
            )
        return mean(weights, parts, jax.random.split(key, count))

    def step(state: State, batch: Any, key: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        (value, terms), grads = averaged(state.weights, batch, key)
        updates, moments = transform.update(grads, state.optimiser, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        average = optax.incremental_update(weights, state.average, 1 - config.ema)
        return State(weights, average, moments), {"loss": value, **terms}

    return jax.jit(step, donate_argnums=0)


def fit(
    step: Callable[[State, Any, jax.Array], tuple[State, dict[str, jax.Array]]],
    state: State,
    batch_at: Callable[[int], Any],
    *,
    config: LoopConfig,
    folder: str | Path,
    on_save: Callable[[State], None] = lambda state: None,
    first: int = 0,
) -> State:
    """Trains to `config.steps`, from the newest checkpoint in `folder` if there is one.

    Args:
      step: from `make_step`; its key is folded from the seed and the step's number.
      state: where to start without a checkpoint; also the restored one's shapes.
      batch_at: step number -> batch; the same number gives the same batch.
      config: the stage's schedule.
      folder: of this stage: its metrics, and its last two checkpoints.
      on_save: called with the state after each checkpoint.
      first: the step at which `state` stands.
    Returns:
      The last state.
    Raises:
      NonFiniteError: a term or a weight is NaN or Inf; the last checkpoint stands.
      RestoreError: the folder's checkpoint is of another stage.
    """
    folder, key = Path(folder), jax.random.key(config.seed)
    with Checkpoints(folder / "checkpoints", keep=2) as checkpoints:
        if (restored := checkpoints.restore(state)) is not None:
            state, first = restored.state, restored.step
            log.info("%s: goes on at step %d of %d", folder.name, first, config.steps)
        progress = Progress(config.steps, done=first, unit="steps")
        with MetricsLog(folder, start=first) as metrics:
            watch = Watch(
                metrics, progress, every=config.log_every, last=config.steps, advice=_ADVICE
            )
            for number in range(first, config.steps):
                state, terms = step(state, batch_at(number), jax.random.fold_in(key, number))
                done = number + 1
                watch.add(done, {folder.name: terms})
                if done % config.save_every == 0 or done == config.steps:
                    # Beside a step still running, what follows can starve its devices' exchange.
                    jax.block_until_ready(state)
                    watch.settle()
                    # The last update shows in no loss yet.
                    norm = optax.tree.norm(state.weights)
                    require_finite(done, {f"{folder.name}/weights": norm}, advice=_ADVICE)
                    checkpoints.save(done, state, {})
                    on_save(state)
    return state
