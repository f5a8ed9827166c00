"""AdamW over the adapters of a scope, and its update."""

from __future__ import annotations

from typing import Any

import optax

from ea_jax import lora
from ea_jax.settings import Settings


def adamw(settings: Settings, highest: float, *, updates: int) -> optax.GradientTransformation:
    """AdamW with the moments, weight decay and scope of a run.

    Args:
      settings: of the run.
      highest: its learning rate, before the last optim.lr_decay of the run.
      updates: of the whole run.
    """
    optim, scope = settings.optim, settings.lora.scope
    falling = round(optim.lr_decay * updates)
    rate = highest
    if falling:
        rate = optax.linear_schedule(highest, 0.0, falling, updates - falling)
    trained = optax.adamw(
        rate, b1=optim.b1, b2=optim.b2, eps=optim.eps, weight_decay=optim.weight_decay
    )
    return optax.partition(
        {"train": trained, "frozen": optax.set_to_zero()}, lambda tree: lora.labels(tree, scope)
    )


def update(
    adapters: Any, grads: Any, state: Any, optimiser: optax.GradientTransformation
) -> tuple[Any, Any]:
    """The adapters after one update, and the optimiser's state."""
    updates, state = optimiser.update(grads, state, adapters)
    return optax.apply_updates(adapters, updates), state
