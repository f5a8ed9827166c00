"""Small edits of flux-tiny in folders, as a run leaves them."""

from __future__ import annotations

from pathlib import Path

import jax
import toy_weights

from ea_jax import edits, lora
from ea_jax.edits import Edit
from ea_jax.flux.pipeline import Pipeline


def save(folder: Path, word: str, *, seed: int = 0) -> str:
    """An edit that changes little, and is said to erase a concept; returns its folder."""
    template = Pipeline("flux-tiny").template("transformer")
    fresh = lora.init(jax.random.key(0), template, scope="dual_qk", rank=2)
    adapters = toy_weights.random_like(fresh, seed=seed)
    edits.save(Edit(adapters, concept=word, strength=0.1), folder)
    return str(folder)
