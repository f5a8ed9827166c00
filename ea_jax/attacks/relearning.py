"""Relearning: a few LoRA steps on pictures of the concept, on top of an edit.

How many steps bring the concept back says how deep an erasure goes. The pictures are the base's, of
other seeds than the attack's, and of other prompts as far as there are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ea_jax import lora as adapters
from ea_jax.attacks import prompts
from ea_jax.attacks.bench import Bench
from ea_jax.attacks.trials import Attack, Trial, Victim
from ea_jax.edits import Edit
from ea_jax.flux import euler
from ea_jax.flux.transformer import dtype_of
from ea_jax.methods import losses
from ea_jax.methods.forward import velocity_of
from ea_jax.methods.inversion import noised
from ea_jax.runtime import compiler
from ea_jax.runtime.fingerprint import checksum
from ea_jax.runtime.streams import stream

BUDGETS, PICTURES = (0, 20, 40, 80, 160, 320), 10
_SCOPE, _RANK, _RATE, _BATCH = "dual_qkv+image_qkv+single", 8, 1e-3, 4
_TURN = 521


def relearning(budgets: Sequence[int] = BUDGETS) -> Attack:
    """The attack, with its curve over steps. Only an edit has something to relearn."""

    def trials(bench: Bench, victim: Victim) -> list[Trial]:
        if victim.edit is None:
            return []
        plain = prompts.plain(bench)
        found = learned(bench, victim, budgets)
        return [
            Trial(
                plain.probes,
                plain.said,
                budget=f"{steps} steps",
                added=Edit(tree) if steps else None,
            )
            for steps, tree in zip(budgets, found, strict=True)
        ]

    meaning = f"LoRA steps on {PICTURES} pictures of the concept"
    return Attack("relearning", "weights", meaning, trials, own=True, plainly=True)


def learned(bench: Bench, victim: Victim, budgets: Sequence[int]) -> list[Any]:
    """Adapters after each budget of steps, to be added to the victim's edit; kept."""
    probes = bench.own[:PICTURES]
    said = bench.say([probe.prompt for probe in probes])
    template = bench.painter.pipeline.template("transformer")
    fresh = adapters.init(jax.random.key(0), template, scope=_SCOPE, rank=_RANK)
    leaves, tree = jax.tree.flatten(fresh)
    latent_PSC = bench.pictures(probes)
    how = [list(budgets), _SCOPE, _RANK, _RATE, _BATCH]
    inputs = [how, checksum(latent_PSC), victim.identity()]
    arrays = bench.kept(
        "relearned adapters",
        inputs,
        said,
        lambda: tuple(
            np.asarray(leaf)
            for made in _train(bench, victim, fresh, budgets, latent_PSC)
            for leaf in jax.tree.leaves(made)
        ),
        [f"{steps}.{n}" for steps in budgets for n in range(len(leaves))],
    )
    each = len(leaves)
    return [tree.unflatten(arrays[n * each : (n + 1) * each]) for n in range(len(budgets))]


def _train(
    bench: Bench, victim: Victim, extra: Any, budgets: Sequence[int], latent_PSC: np.ndarray
) -> list[Any]:
    probes = bench.own[:PICTURES]
    said = bench.say([probe.prompt for probe in probes])
    weights, own = bench.painter.bound(victim.edit, victim.strength)
    optimiser, forward = optax.adam(_RATE), bench.forward()

    def step(extra, opt_state, weights, own, latent_BSC, text, seed_B):
        x_BSC, t_B, noise_BSC = noised(latent_BSC, seed_B, 0.0)
        t_B = euler.model_time(t_B, dtype_of(weights))

        def loss(extra):
            both = extra if own is None else adapters.concatenate([own, extra])
            v, _ = velocity_of(weights, both, x_BSC, t_B, text, forward)
            return losses.velocity_error(v, noise_BSC - latent_BSC).mean()

        value, grads = jax.value_and_grad(loss)(extra)
        updates, opt_state = optimiser.update(grads, opt_state)
        return optax.apply_updates(extra, updates), opt_state, value

    program = compiler.jit(step, bench.painter.mesh)
    opt_state, found = optimiser.init(extra), {0: extra}
    with jax.set_mesh(bench.painter.mesh):
        for turn in range(max(budgets)):
            rng = stream(_TURN, turn)
            picked = rng.integers(len(probes), size=_BATCH)
            extra, opt_state, _ = program(
                extra,
                opt_state,
                weights,
                own,
                jnp.asarray(latent_PSC[picked]),
                said.texts.text([probes[row].prompt for row in picked]),
                jnp.asarray(rng.integers(2**32, size=_BATCH), jnp.uint32),
            )
            found[turn + 1] = extra
    return [found[budget] for budget in budgets]
