"""This project's sampling of 28 steps."""

from __future__ import annotations

from pathlib import Path

import cases
import jax
import numpy as np
from cases import Case

from ea_jax.flux import latents
from ea_jax.flux.sharded import on_mesh, unrolled_on
from ea_jax.flux.transformer import Text
from ea_jax.runtime.mesh import make_mesh, put_rows


class Sampler:
    """Samples latents of the same noise and text each time."""

    def __init__(self, case: Case, folder: Path):
        self.case, self.mesh = case, make_mesh({})
        self.pipeline = on_mesh(self.mesh, folder, dtype=np.float32)
        weights = self.pipeline.load_part("transformer")
        if case.settings.model.blocks == "unrolled":
            self.pipeline.weights["transformer"] = unrolled_on(self.mesh, weights)
        noise_BSC, t5_BTD, pooled_BD = cases.draw_sampling(case)
        noise_BhwC = latents.unpack(jax.device_put(noise_BSC), case.grid)
        self.noise_BhwC = put_rows(self.mesh, np.asarray(noise_BhwC))
        self.text = put_rows(self.mesh, Text(t5_BTD, pooled_BD))  # pyright: ignore

    def run(self, step: int) -> None:
        self.paint()

    def paint(self) -> np.ndarray:
        """Packed latents [B, S, C]."""
        model, steps = self.case.settings.model, self.case.settings.sample.steps
        with jax.set_mesh(self.mesh):
            z_BhwC = self.pipeline.sample(
                self.text, noise_BhwC=self.noise_BhwC, steps=steps, guidance=model.guidance
            )
        return np.asarray(latents.pack(z_BhwC))
