"""Methods of one program a step on a small random model: their inputs by hand, and whole runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from test_inversions import BALL, LENGTH, encode
from toy_steps import BASE, OPTIMISER, SIGMAS, SMALL, Inputs
from toy_t5 import t5_tokenizer

from configs import soccer
from ea_jax import lora, settings
from ea_jax.concepts import bank, choose, rows
from ea_jax.methods import pictures, registry
from ea_jax.methods.forward import Forward, forward_of, velocity_of
from ea_jax.methods.ready import Ready
from ea_jax.methods.trained import State
from ea_jax.runtime.mesh import make_mesh

GRID = (2, 3)
FORWARD = Forward(model=SMALL, grid=GRID, sigmas=SIGMAS)
NAMES = ("esd", "ca_model", "ca_noise", "gem", "eap", "mace", "meta_unlearning")
KEPT = ("a cloud", "a photo of a cat", "a dog", "a photo of a cloud")


def adapters() -> Any:
    """Such that they change something."""
    made = lora.init(jax.random.key(1), BASE, scope="dual_qk", rank=2)
    return jax.tree.map(lambda x: x + 0.1, made)


def state(pool_PSC: jax.Array | None = None) -> State:
    made = adapters()
    return State(made, OPTIMISER.init(made), pool_PSC)


def places(index: int, inputs: Inputs, *, fresh: bool = False, rows: int = 2) -> dict[str, Any]:
    """Fields of a `pool.Batch`: each row a member of its own, all at one step of the schedule."""
    return {
        "member_B": jnp.arange(rows),
        "fresh_B": jnp.full(rows, fresh),
        "index_B": jnp.full(rows, index),
        "weight_B": jnp.ones(rows),
        "text": inputs.text(rows),
        "anchor": inputs.text(rows),
        "seed": jnp.uint32(5),
    }


@jax.jit
def velocity(made: Any, x_BSC: Any, t: Any, text: Any, guidance: float | None = None) -> jax.Array:
    """With adapters, or of the frozen model for None; t of all rows, or of each."""
    t_B = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (len(x_BSC),))
    return velocity_of(BASE, made, x_BSC, t_B, text, FORWARD, guidance=guidance)[0]


def descended(before: State, loss: Any) -> Any:
    """Adapters after one step of `OPTIMISER` down a loss written by hand."""
    return jax.tree.map(lambda a, g: a - g, before.lora, jax.jit(jax.grad(loss))(before.lora))


def close(found: Any, wanted: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, wanted)


def ready(
    name: str,
    mesh: Any = None,
    *,
    batch: int = 2,
    steps: int = 3,
    concepts: Sequence[rows.Concept] = (BALL,),
    near: Sequence[str] = (),
) -> Ready:
    """What a method is made of: a random bank, and pictures that hold their prompt's number.

    Args:
      name: of its preset.
      mesh: one device by default.
      batch: of a step.
      steps: of the schedule; three are `SIGMAS`.
      concepts: that are erased.
      near: prompts about what is nearest to them.
    """
    config = soccer.get_config(f"tiny+{name}")
    config.model.attention = "chunked"
    config.data.update({"shuffles": 4, "cache": None, "pool": 4})
    config.optim.batch = batch
    made = settings.from_config(config)
    given = [dataclasses.replace(one, neutral="cloud") for one in concepts]
    words = bank.build(
        given, choose.recipe(made), preserve=KEPT, near=near, encode=encode,
        tokenizer=t5_tokenizer(), max_length=LENGTH, encoder="random",
    )  # fmt: skip
    sigmas = SIGMAS if steps == 3 else np.linspace(1, 0, steps + 1)
    forward = forward_of(made, SMALL, GRID, sigmas)
    sets = pictures.blank(words, registry.chosen(made).needs(made), made, forward.latent_shape)
    numbered = {
        key: dataclasses.replace(
            one, latent_PSC=one.latent_PSC + one.number_P[:, None, None].astype(np.float32)
        )
        for key, one in sets.items()
    }
    mesh = mesh or make_mesh({}, jax.devices()[:1])
    return Ready(made, mesh, forward, BASE, words, numbered, "base", "hash")
