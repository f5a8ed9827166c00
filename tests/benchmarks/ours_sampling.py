"""This project's sampling of 28 steps."""

from __future__ import annotations

from pathlib import Path

import cases
import jax
import numpy as np
from cases import Case

from ea_jax.flux import latents
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.transformer import Text, apart


class Sampler:
    """Samples latents of the same noise and text each time."""

    def __init__(self, case: Case, folder: Path):
        self.case = case
        self.pipeline = Pipeline.load(folder, dtype=np.float32, parts=("transformer",))
        if case.settings.model.blocks == "apart":
            self.pipeline.weights["transformer"] = apart(self.pipeline.weights["transformer"])
        noise_BSC, t5_BTD, pooled_BD = cases.draw_sampling(case)
        self.noise_BhwC = latents.unpack(jax.device_put(noise_BSC), case.grid)
        self.text = Text(jax.device_put(t5_BTD), jax.device_put(pooled_BD))

    def run(self, step: int) -> None:
        self.paint()

    def paint(self) -> np.ndarray:
        """Packed latents [B, S, C]."""
        model, steps = self.case.settings.model, self.case.settings.sample.steps
        z_BhwC = self.pipeline.sample(
            self.text, noise_BhwC=self.noise_BhwC, steps=steps, guidance=model.guidance
        )
        return np.asarray(latents.pack(z_BhwC))
