"""A run as shapes: all that its steps are given, where it would lie on a mesh, and no numbers.

For compiling the real steps of a model that isn't here, for a chip that isn't here.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ea_jax import lora
from ea_jax.flux import axes
from ea_jax.flux.columns import Columns
from ea_jax.flux.sharded import unrolled_for
from ea_jax.flux.transformer import Text, TransformerConfig, Weights, abstract_weights
from ea_jax.methods import erasure
from ea_jax.methods.erase_anything import (
    Contrast,
    LowerBatch,
    Pictures,
    State,
    StepSettings,
    UpperBatch,
)
from ea_jax.methods.fit import resolved
from ea_jax.runtime.mesh import batch_parts, sharding
from ea_jax.settings import Settings


@dataclasses.dataclass(frozen=True)
class Shapes:
    """A run's arrays as ShapeDtypeStructs with shardings.

    Attributes:
      steps: what is static about a step.
      state, base: as the steps take them.
      lower, upper: their batches; `upper` is None where nothing preserves.
      noise_BSC, text: what sampling a batch of pictures takes.
    """

    steps: StepSettings
    state: State
    base: Weights
    lower: LowerBatch
    upper: UpperBatch | None
    noise_BSC: Any
    text: Text


def shapes(
    settings: Settings, model: TransformerConfig, *, latent: tuple[int, int, int], mesh: Mesh
) -> Shapes:
    """The shapes of a run.

    Args:
      settings: of the run.
      model: shape of its transformer.
      latent: height, width and channels of a picture's latent.
      mesh: of the devices it would run on.
    Raises:
      ValueError: a mesh that doesn't divide the model.
    """
    settings = resolved(settings, model, mesh, latent=latent)
    height, width, channels = latent
    tokens, packed = height * width // 4, 4 * channels
    whole = sharding(mesh, ())
    # The noise levels are numbers in the program; which ones, costs nothing.
    sigmas = tuple(1 - i / settings.sample.steps for i in range(settings.sample.steps + 1))
    steps = erasure.step_settings(settings, model, (height // 2, width // 2), sigmas)

    weights = abstract_weights(model, jnp.dtype(settings.model.dtype))
    base = weights
    if settings.model.blocks == "unrolled":
        base = jax.eval_shape(functools.partial(unrolled_for, mesh), weights)
    base = jax.tree.map(_struct, base, axes.shardings(mesh, base))
    adapters = jax.eval_shape(
        lambda: lora.init(
            jax.random.key(0), weights, scope=settings.lora.scope, rank=settings.lora.rank
        )
    )
    lower, upper = erasure.optimisers(settings)
    pool_PSC: Any = jax.ShapeDtypeStruct((settings.data.pool, tokens, packed), jnp.float32)
    state = State(
        lora=adapters,
        lower=jax.eval_shape(lower.init, adapters),
        upper=None if settings.optim.optimisers == "one" else jax.eval_shape(upper.init, adapters),
        pool_PSC=pool_PSC,
        inversions_MND=_inversions(settings, model),
    )
    state = jax.tree.map(lambda leaf: _struct(leaf, whole), state)
    batch = _Rows(settings, model, mesh, tokens, packed)
    optim, painted = settings.optim, batch.padded(settings.sample.batch)
    return Shapes(
        steps=steps,
        state=state,
        base=base,
        lower=batch.lower(batch.padded(optim.batch)),
        upper=batch.upper(),
        noise_BSC=batch.array(painted, tokens, packed, dtype=weights["x_embedder"]["kernel"].dtype),
        text=batch.text(painted),
    )


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Batches of a run; their rows are split over the mesh where they divide."""

    settings: Settings
    model: TransformerConfig
    mesh: Mesh
    tokens: int
    packed: int

    def padded(self, rows: int) -> int:
        return rows + -rows % batch_parts(self.mesh)

    def array(self, *shape: int, dtype: Any = jnp.float32) -> Any:
        divides = shape and shape[0] % batch_parts(self.mesh) == 0
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=sharding(self.mesh, ("batch",) if divides else ())
        )

    def text(self, rows: int) -> Text:
        model, length = self.model, self.settings.model.text_length
        return Text(
            t5_BTD=self.array(rows, length, model.joint_attention_dim, dtype=jnp.bfloat16),
            pooled_BD=self.array(rows, model.pooled_projection_dim, dtype=jnp.bfloat16),
        )

    def columns(self, rows: int) -> Columns:
        width = self.settings.concept.max_tokens
        return Columns(
            idx_BN=self.array(rows, width, dtype=jnp.int32),
            mask_BN=self.array(rows, width, dtype=jnp.bool_),
        )

    def pictures(self, rows: int) -> Pictures:
        rows = self.padded(rows)
        return Pictures(
            latent_BSC=self.array(rows, self.tokens, self.packed),
            text=self.text(rows),
            weight_B=self.array(rows),
        )

    def lower(self, rows: int) -> LowerBatch:
        return LowerBatch(
            member_B=self.array(rows, dtype=jnp.int32),
            fresh_B=self.array(rows, dtype=jnp.bool_),
            index_B=self.array(rows, dtype=jnp.int32),
            weight_B=self.array(rows),
            text=self.text(rows),
            columns=self.columns(rows),
            inversion_B=self.array(rows, dtype=jnp.int32),
            anchor=self.text(rows),
            seed=self.array(dtype=jnp.uint32),
        )

    def upper(self) -> UpperBatch | None:
        loss, optim = self.settings.loss, self.settings.optim
        if not (loss.lora or loss.keep or loss.rsc):
            return None
        contrast = None
        if loss.rsc:
            rows = optim.rsc_batch
            others = rows * (1 + self.settings.data.irrelevant)
            contrast = Contrast(
                latent_RSC=self.array(rows, self.tokens, self.packed),
                text=self.text(rows),
                columns=self.columns(rows),
                others=self.text(others),
                other_columns=self.columns(others),
            )
        return UpperBatch(
            lora=self.pictures(optim.lora_batch) if loss.lora else None,
            keep=self.pictures(optim.keep_batch) if loss.keep else None,
            contrast=contrast,
            seed=self.array(dtype=jnp.uint32),
        )


def _inversions(settings: Settings, model: TransformerConfig) -> Any:
    """Inversions, of as many tokens as a concept may have; a run's own has as many as it needs."""
    if not settings.data.inversions:
        return None
    shape = (settings.data.inversions, settings.concept.max_tokens, model.joint_attention_dim)
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _struct(leaf: Any, where: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
