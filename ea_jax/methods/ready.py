"""All that a method is made of: settings, prompts, pictures, and the model's shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from ea_jax import lora
from ea_jax.concepts.bank import PromptBank
from ea_jax.concepts.kept_words import KeptWords
from ea_jax.edits import Edit
from ea_jax.methods.forward import Forward
from ea_jax.methods.method import Method
from ea_jax.methods.pictures import LatentSet
from ea_jax.runtime.mesh import sharding
from ea_jax.settings import Settings

_LORA_KEY = 0  # of the run's key; a method's own are larger


@dataclasses.dataclass(frozen=True)
class Ready:
    """What a method is given; nothing of it lies on a device, so it may be shapes alone.

    Attributes:
      settings: of the run.
      mesh: that the weights lie on.
      forward: what is static about a pass through the model.
      template: the transformer's shapes, blocks stacked.
      bank: encoded prompts.
      pictures: `concept`, of the bank's `plain` sentences, `keep`, of its `preserve` prompts, and
        `anchor`, of its rows' anchors; as far as the method needs them.
      fingerprint: of the transformer as it is loaded.
      base_hash: of the transformer in whatever precision; an edit carries it.
      vocabulary: moments of words that are kept; None where the method needs none.
    """

    settings: Settings
    mesh: Mesh
    forward: Forward
    template: Any
    bank: PromptBank
    pictures: Mapping[str, LatentSet]
    fingerprint: str
    base_hash: str
    vocabulary: KeptWords | None = None

    def edit(self, adapters: Any = None, *, deltas: Any = None, zeroed: Sequence[str] = ()) -> Edit:
        """An edit of this run, and how it was made; see `Edit`."""
        return Edit(
            adapters=adapters or {},
            deltas=deltas or {},
            zeroed=tuple(zeroed),
            base=self.base_hash,
            concept=self.settings.concept.label,
            preset=self.settings.preset,
            method=self.settings.method.name,
            strength=1.0,
        )


def fresh_lora(key: jax.Array, settings: Settings, template: Any) -> Any:
    """A run's adapters before its first step: they change nothing."""
    own = jax.random.fold_in(key, _LORA_KEY)
    return lora.init(own, template, scope=settings.lora.scope, rank=settings.lora.rank)


def blank_lora(settings: Settings, template: Any) -> Any:
    """Adapters of the run's LoRA that change nothing."""
    return fresh_lora(run_key(settings), settings, template)


def run_key(settings: Settings) -> jax.Array:
    """What a run's random numbers on a device begin from."""
    return jax.random.key(settings.optim.seed)


def initial_state(method: Method, settings: Settings, mesh: Mesh) -> Any:
    """A method's state at the start, a copy on every device."""
    return jax.jit(method.init, out_shardings=sharding(mesh, ()))(run_key(settings))


def state_shapes(method: Method, settings: Settings, mesh: Mesh) -> Any:
    """Shapes and shardings of a method's state."""
    replicated = sharding(mesh, ())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated),
        jax.eval_shape(method.init, run_key(settings)),
    )
