"""diffusers' own sampling of 28 steps: FluxPipeline, text already encoded, latents out."""

from __future__ import annotations

from pathlib import Path

import cases
import diffusers
import numpy as np
import torch
from cases import Case


class Sampler:
    """Samples latents of the same noise and text each time."""

    def __init__(self, case: Case, folder: Path):
        self.case = case
        none = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
        self.pipeline = diffusers.FluxPipeline.from_pretrained(folder, **none)
        self.pipeline.set_progress_bar_config(disable=True)
        self.noise_BSC, self.t5_BTD, self.pooled_BD = map(
            torch.from_numpy, cases.draw_sampling(case)
        )

    def run(self, step: int) -> None:
        self.paint()

    def paint(self) -> np.ndarray:
        """Packed latents [B, S, C]."""
        settings = self.case.settings
        found = self.pipeline(
            prompt_embeds=self.t5_BTD,
            pooled_prompt_embeds=self.pooled_BD,
            latents=self.noise_BSC,
            height=settings.model.resolution,
            width=settings.model.resolution,
            num_inference_steps=settings.sample.steps,
            guidance_scale=settings.model.guidance,
            output_type="latent",
        )
        return found.images.numpy()
