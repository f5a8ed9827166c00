"""This project's pair of steps, jitted with donation as a run jits them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import Case, Prompts

import convert.diffusers
from ea_jax.flux.columns import Columns
from ea_jax.flux.sharded import unrolled_on
from ea_jax.flux.transformer import Text, TransformerConfig, abstract_weights, init_weights
from ea_jax.methods.erase_anything.method import jitted, optimisers, step_settings
from ea_jax.methods.erase_anything.steps import (
    Contrast,
    LowerBatch,
    Pictures,
    State,
    UpperBatch,
    lower_step,
    upper_step,
)
from ea_jax.methods.forward import forward_of
from ea_jax.methods.trajectories import noise_levels
from ea_jax.runtime.flops import count_flops
from ea_jax.runtime.mesh import make_mesh, put_rows, sharding

SEED = np.uint32(7)


class Pair:
    """A lower and an upper step, batches of a case's inputs put on the device each time."""

    def __init__(self, case: Case, folder: Path):
        self.case, self.inputs = case, cases.draw(case)
        settings = case.settings
        self.mesh = make_mesh({})
        model = TransformerConfig.from_json(case.model)
        self.steps = step_settings(settings, forward_of(settings, model, case.grid, case.sigmas))
        replicated = sharding(self.mesh, ())
        self.base = convert.diffusers.load(
            abstract_weights(model),
            folder,
            "transformer",
            put=lambda path, array: jax.device_put(array, replicated),
        )
        if settings.model.blocks == "unrolled":
            self.base = unrolled_on(self.mesh, self.base)
        self.programs = jitted(settings, self.steps, self.mesh)
        self.state = jax.device_put(self._state(*optimisers(settings)), replicated)

    def run(self, step: int) -> None:
        lower, upper = self.programs
        with jax.set_mesh(self.mesh):
            self.state, _ = lower(self.state, self.base, put_rows(self.mesh, self.lower(step)))
            self.state, _ = upper(self.state, self.base, put_rows(self.mesh, self.upper()))
            jax.block_until_ready(self.state)

    def lower(self, step: int) -> LowerBatch:
        index_B, fresh_B = self.case.places(step)
        return LowerBatch(
            member_B=np.arange(len(index_B), dtype=np.int32),
            fresh_B=fresh_B,
            index_B=index_B,
            weight_B=np.ones(len(index_B), np.float32),
            text=_text(self.inputs.concept),
            columns=_columns(self.inputs.concept),
            inversion_B=np.full(len(index_B), -1, np.int32),
            anchor=_text(self.inputs.anchor),
            seed=SEED,
        )

    def upper(self) -> UpperBatch:
        kept = {
            name: Pictures(latent_BSC, _text(prompts), np.ones(len(latent_BSC), np.float32))
            for name, (latent_BSC, prompts) in self.inputs.kept.items()
        }
        contrast = None
        if self.inputs.contrast is not None:
            latent_BSC, concept, others = self.inputs.contrast
            contrast = Contrast(
                latent_BSC, _text(concept), _columns(concept), _text(others), _columns(others)
            )
        return UpperBatch(
            lora=kept.get("lora"), keep=kept.get("keep"), contrast=contrast, seed=SEED
        )

    def flops(self) -> int:
        """Operations of a pair, counted on its jaxpr; nothing runs."""
        lower, upper = self.programs
        return count_flops(lower, self.state, self.base, self.lower(0)) + count_flops(
            upper, self.state, self.base, self.upper()
        )

    @functools.cached_property
    def gradients(self) -> dict[str, tuple[dict[str, float], Any, np.ndarray]]:
        """For each level of pair 0: its terms, the adapters' gradient, the pool it leaves.

        An optimiser that keeps the gradient as its state says what it was.
        """
        keeper = optax.GradientTransformation(
            init=lambda params: jax.tree.map(jnp.zeros_like, params),
            update=lambda gradient, state, params=None: (gradient, gradient),
        )
        found = {}
        batches = {lower_step: self.lower(0), upper_step: self.upper()}
        for level, batch in batches.items():
            before = self._state(keeper, keeper)
            program = jax.jit(functools.partial(level, settings=self.steps, optimiser=keeper))
            after, terms = program(before, self.base, batch)
            numbers = {name: float(value) for name, value in terms.items()}
            name = level.__name__.removesuffix("_step")
            gradient = jax.tree.map(np.asarray, getattr(after, name))
            found[name] = (numbers, gradient, np.asarray(after.pool_PSC))
        return found

    def draws(self) -> tuple[np.ndarray, dict[str, np.ndarray | None]]:
        """The random numbers of a pair: the lower step's noise, and all of the upper step's."""
        key, t_min = jax.random.key(SEED), self.case.settings.loss.rsc_t_min
        noise_BSC = jax.random.normal(key, self.inputs.pool_PSC.shape)
        noise_key, t_key, contrast_key = jax.random.split(key, 3)
        upper: dict[str, Any] = dict.fromkeys(("noise_BSC", "t_B", "contrast_BSC", "contrast_B"))
        if kept := [latent_BSC for latent_BSC, _ in self.inputs.kept.values()]:
            shape = np.concatenate(kept).shape
            upper["noise_BSC"] = jax.random.normal(noise_key, shape)
            t_draw = self.case.settings.loss.t_draw
            upper["t_B"] = noise_levels(t_key, shape[0], t_draw, self.steps.sigmas)
        if self.inputs.contrast is not None:
            shape = self.inputs.contrast[0].shape
            noise_key, t_key = jax.random.split(contrast_key)
            upper["contrast_BSC"] = jax.random.normal(noise_key, shape)
            upper["contrast_B"] = jax.random.uniform(t_key, shape[:1], minval=t_min)
        return np.asarray(noise_BSC), {
            name: None if value is None else np.asarray(value) for name, value in upper.items()
        }

    def _state(self, lower: Any, upper: Any) -> State:
        tree = {name: {"A": A, "B": B} for name, (A, B) in self.inputs.adapters.items()}
        adapters = {"transformer_blocks": {"attn": jax.tree.map(jnp.asarray, tree)}}
        return State(
            lora=adapters,
            lower=lower.init(adapters),
            upper=upper.init(adapters),
            pool_PSC=jnp.asarray(self.inputs.pool_PSC),
        )


def write_random_model(config: dict[str, Any], folder: Path) -> None:
    """A transformer of random float32 weights in diffusers' layout."""
    weights = init_weights(TransformerConfig.from_json(config), jax.random.key(0))
    convert.diffusers.save(weights, folder, "transformer", dtype=jnp.float32, config=config)


def _text(prompts: Prompts) -> Text:
    return Text(t5_BTD=prompts.t5_BTD, pooled_BD=prompts.pooled_BD)  # pyright: ignore


def _columns(prompts: Prompts) -> Columns:
    return Columns(idx_BN=prompts.idx_BN, mask_BN=prompts.mask_BN)  # pyright: ignore
