"""Small edits in folders, as a run leaves them, and how their models paint in no time."""

from __future__ import annotations

from pathlib import Path

import jax
import toy_weights

from ea_jax import edits, lora
from ea_jax.edits import Edit
from ea_jax.flux.pipeline import Pipeline


def save(
    folder: Path,
    word: str,
    *,
    model: str | Path = "flux-tiny",
    strength: float | None = None,
    seed: int = 0,
) -> Path:
    """An edit of a model that is said to erase a concept; returns its folder."""
    template = Pipeline(model).template("transformer")
    fresh = lora.init(jax.random.key(0), template, scope="dual_qk", rank=2)
    adapters = toy_weights.random_like(fresh, seed=seed)
    edits.save(Edit(adapters, concept=word, strength=strength), folder)
    return folder


def sampling(model: Path, folder: Path, *, batch: int) -> list[str]:
    """Flags of a command that paints with a small random model; its cache lies in a folder."""
    return [
        *(f"--model={model}", f"--cache={folder / 'cache'}", "--size=32", "--steps=1"),
        *("--text_length=16", "--dtype=float32", f"--batch={batch}"),
    ]
