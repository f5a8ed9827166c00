"""A run as shapes: all that its steps are given, where it would lie on a mesh, and no numbers.

For compiling the real steps of a model that isn't here, for a chip that isn't here. The batches are
those that the run's own code makes, of prompts and pictures that hold nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ea_jax.concepts import bank as banks
from ea_jax.concepts import choose
from ea_jax.evaluate import worlds
from ea_jax.flux import axes
from ea_jax.flux.sharded import unrolled_for
from ea_jax.flux.transformer import Text, TransformerConfig, Weights, abstract_weights
from ea_jax.methods import pictures, prepare, registry
from ea_jax.methods.fit import resolved
from ea_jax.methods.forward import Forward, forward_of
from ea_jax.methods.method import Method, Needs
from ea_jax.methods.ready import Ready, fresh_lora, run_key, state_shapes
from ea_jax.runtime.mesh import batch_parts, sharding
from ea_jax.settings import Settings


@dataclasses.dataclass(frozen=True)
class Shapes:
    """A run's arrays as ShapeDtypeStructs with shardings.

    Attributes:
      method: whose levels are compiled.
      forward: what is static about a pass through the model.
      state, base: as the levels take them.
      batches: of each level, by its name.
      lora: adapters as sampling takes them.
      noise_BSC, text: what sampling a batch of pictures takes.
    """

    method: Method
    forward: Forward
    state: Any
    base: Weights
    batches: dict[str, Any]
    lora: Any
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
    height, width, _ = latent
    # The noise levels are numbers in the program; which ones, costs nothing.
    sigmas = (1 - i / settings.sample.steps for i in range(settings.sample.steps + 1))
    forward = forward_of(settings, model, (height // 2, width // 2), sigmas)
    weights = abstract_weights(model, jnp.dtype(settings.model.dtype))
    base = weights
    if settings.model.blocks == "unrolled":
        base = jax.eval_shape(functools.partial(unrolled_for, mesh), weights)
    base = jax.tree.map(_struct, base, axes.shardings(mesh, base))

    entry = registry.chosen(settings)
    needs = entry.needs(settings)
    bank = banks.blank(
        prepare.prompts(settings, prepare.with_names(settings, _words(settings, needs))),
        max_length=settings.model.text_length,
        width=settings.concept.max_tokens,
        t5_width=model.joint_attention_dim,
        pooled_width=model.pooled_projection_dim,
    )
    latent_sets = pictures.blank(bank, needs, settings, forward.latent_shape)
    method = entry.make(Ready(settings, mesh, forward, weights, bank, latent_sets, "", ""))
    lora = jax.eval_shape(lambda: fresh_lora(run_key(settings), settings, weights))
    replicated = sharding(mesh, ())
    painted = settings.sample.batch + -settings.sample.batch % batch_parts(mesh)
    noise_BSC = np.broadcast_to(
        np.zeros((), weights["x_embedder"]["kernel"].dtype), (painted, *forward.latent_shape)
    )
    return Shapes(
        method=method,
        forward=forward,
        state=state_shapes(method, settings, mesh),
        base=base,
        batches={level.name: _rows(mesh, level.batch(0)) for level in method.levels},
        lora=jax.tree.map(lambda leaf: _struct(leaf, replicated), lora),
        noise_BSC=_rows(mesh, noise_BSC),
        text=_rows(mesh, bank.text("empty", [0] * painted)),
    )


def _words(settings: Settings, needs: Needs) -> choose.Words:
    """A run's texts, with stand-ins for words that it might have to ask for."""
    inside = {"synonym_source": "auto", "irrelevant_source": "config", "endpoint": None}
    chosen = dataclasses.replace(settings.concept, kind="thing", **inside)
    made = choose.words(
        dataclasses.replace(settings, concept=chosen),
        worlds.open_world()._replace(closed=True),
        contrast=False,
    )
    both = chosen.erase == "word_and_synonyms"
    stand_ins: dict[str, Any] = {}
    if needs.contrast or both:
        stand_ins = {"synonyms": chosen.synonyms or ("synonym",)}
    if needs.contrast:
        stand_ins["irrelevant"] = (("first",), ("second",))
    concepts = tuple(dataclasses.replace(one, **stand_ins) for one in made.concepts)
    return dataclasses.replace(made, concepts=concepts)


def _rows(mesh: Mesh, batch: Any) -> Any:
    """A batch's shapes; its rows are split over the mesh where they divide."""
    parts = batch_parts(mesh)

    def struct(leaf: Any) -> jax.ShapeDtypeStruct:
        divides = np.ndim(leaf) and len(leaf) % parts == 0
        return _struct(np.asarray(leaf), sharding(mesh, ("batch",) if divides else ()))

    return jax.tree.map(struct, batch)


def _struct(leaf: Any, where: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
