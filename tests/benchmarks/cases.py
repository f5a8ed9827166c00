"""What both sides of a comparison are given: settings, and inputs as NumPy arrays.

Neither JAX nor torch is imported here, so that a side measured alone holds its own library only.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

import ea_jax
from configs import soccer
from ea_jax.settings import Settings, from_config

TINY = Path(ea_jax.__file__).parent / "assets" / "flux-tiny"
WIDE = {
    "_class_name": "FluxTransformer2DModel",
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "guidance_embeds": True,
    "in_channels": 64,
    "joint_attention_dim": 1024,
    "num_attention_heads": 8,
    "num_layers": 4,
    "num_single_layers": 8,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}
CONCEPT_TOKENS = 3
# T5's own spread on flux-tiny. Random pooled vectors as long as CLIP's
# are far from any prompt's, and flux-tiny's velocity explodes on them.
T5_SCALE, POOLED_SCALE = np.float32(0.85), np.float32(0.03)


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
      name: on the command line.
      label: in the table.
      settings: of the run; both sides follow them.
      model: the transformer's config.json.
      token: side of the square of pixels that is one image token.
      rows: pictures at once, where pictures are sampled; otherwise 0.
    """

    name: str
    label: str
    settings: Settings
    model: dict[str, Any]
    token: int
    rows: int = 0

    @property
    def grid(self) -> tuple[int, int]:
        side = self.settings.model.resolution // self.token
        return side, side

    @property
    def sigmas(self) -> np.ndarray:
        """Noise levels [29] float32 from 1 down to 0, shifted as FLUX.1-dev's at 512 px."""
        steps = self.settings.sample.steps
        even = np.linspace(1, 1 / steps, steps)
        shift = math.exp(0.63)
        return np.append(shift / (shift + 1 / even - 1), 0).astype(np.float32)

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the schedule at which the pool's members stand, and who starts anew."""
        members, steps = self.settings.optim.batch, self.settings.sample.steps
        index_B = (np.arange(members) * steps // members + step + 1) % steps
        return index_B.astype(np.int32), index_B == 0


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Encoded prompts, and where the concept stands in them."""

    t5_BTD: np.ndarray
    pooled_BD: np.ndarray
    idx_BN: np.ndarray
    mask_BN: np.ndarray


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a pair of steps trains on.

    Attributes:
      adapters: {projection: (A [L, D, R], B [L, R, D])}; B isn't zero, so that every loss has
        something to say.
      pool_PSC: latents of the pool.
      concept, anchor: the lower step's prompts.
      kept: {"lora" or "keep": (clean latents, prompts)}, for each term that has a weight.
      contrast: L_rsc's latents, the concept's prompts, the others' (synonym first); or None.
    """

    adapters: dict[str, tuple[np.ndarray, np.ndarray]]
    pool_PSC: np.ndarray
    concept: Prompts
    anchor: Prompts
    kept: dict[str, tuple[np.ndarray, Prompts]]
    contrast: tuple[np.ndarray, Prompts, Prompts] | None


def cases(attention: str | None = None) -> dict[str, Case]:
    """All comparisons by name, ours with that attention backend in place of a case's own."""
    tiny = json.loads((TINY / "transformer" / "config.json").read_text("utf-8"))
    wide = _settings("paper", batch=1, resolution=512, text_length=256, attention="full")
    batch_1 = _settings("paper", batch=1)
    found = [
        Case("tiny-1", "flux-tiny, `paper`, batch 1", batch_1, tiny, 8),
        Case("tiny-4", "flux-tiny, `paper`, batch 4", _settings("paper", batch=4), tiny, 8),
        Case("tiny-robust", "flux-tiny, `robust`, batch 4 + 8", _settings("robust"), tiny, 8),
        Case("wide", "width 1024, `paper`, batch 1", wide, WIDE, 16),
        Case("sampling-1", "flux-tiny, 28 steps, 1 picture", batch_1, tiny, 8, rows=1),
        Case("sampling-8", "flux-tiny, 28 steps, 8 pictures", batch_1, tiny, 8, rows=8),
    ]
    if attention:
        found = [_with_attention(case, attention) for case in found]
    return {case.name: case for case in found}


def draw(case: Case) -> Inputs:
    """Random inputs of a case, the same in every process."""
    rng, loss, optim = np.random.default_rng(0), case.settings.loss, case.settings.optim
    width = case.model["num_attention_heads"] * case.model["attention_head_dim"]
    layers, rank = case.model["num_layers"], case.settings.lora.rank
    channels, tokens = case.model["in_channels"], math.prod(case.grid)

    def normal(*shape: int, scale: Any = 1.0) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    def prompts(rows: int) -> Prompts:
        length, columns = case.settings.model.text_length, case.settings.concept.max_tokens
        starts_B1 = rng.integers(0, 10, (rows, 1))
        mask_BN = np.arange(columns) < np.full((rows, 1), CONCEPT_TOKENS)
        idx_BN = np.where(mask_BN, starts_B1 + np.arange(columns), 0)
        return Prompts(
            normal(rows, length, case.model["joint_attention_dim"], scale=T5_SCALE),
            normal(rows, case.model["pooled_projection_dim"], scale=POOLED_SCALE),
            idx_BN.astype(np.int32),
            mask_BN,
        )

    def pictures(rows: int) -> tuple[np.ndarray, Prompts]:
        return normal(rows, tokens, channels), prompts(rows)

    adapters = {
        name: (
            normal(layers, width, rank, scale=1 / rank),
            normal(layers, rank, width, scale=0.02),
        )
        for name in ("add_q_proj", "add_k_proj")
    }
    kept = {}
    if loss.lora:
        kept["lora"] = pictures(optim.lora_batch)
    if loss.keep:
        kept["keep"] = pictures(optim.keep_batch)
    contrast = None
    if loss.rsc:
        others = optim.rsc_batch * (1 + case.settings.data.irrelevant)
        contrast = (*pictures(optim.rsc_batch), prompts(others))
    return Inputs(
        adapters=adapters,
        pool_PSC=normal(case.settings.data.pool, tokens, channels),
        concept=prompts(optim.batch),
        anchor=prompts(optim.batch),
        kept=kept,
        contrast=contrast,
    )


def draw_sampling(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packed noise [B, S, C], text [B, T, D] and pooled text [B, D] to sample pictures from."""
    rng, model = np.random.default_rng(0), case.model
    shapes = [
        (math.prod(case.grid), model["in_channels"]),
        (case.settings.model.text_length, model["joint_attention_dim"]),
        (model["pooled_projection_dim"],),
    ]
    noise_BSC, t5_BTD, pooled_BD = (
        rng.standard_normal((case.rows, *shape), np.float32) for shape in shapes
    )
    return noise_BSC, T5_SCALE * t5_BTD, POOLED_SCALE * pooled_BD


def _with_attention(case: Case, attention: str) -> Case:
    model = dataclasses.replace(case.settings.model, attention=attention)
    return dataclasses.replace(case, settings=dataclasses.replace(case.settings, model=model))


def _settings(preset: str, batch: int | None = None, **model: Any) -> Settings:
    """The settings of `configs/soccer.py` on flux-tiny, every batch of `batch` rows if given."""
    settings = from_config(soccer.get_config(f"tiny+{preset}"))
    optim = settings.optim
    if batch is not None:
        optim = dataclasses.replace(optim, batch=batch, lora_batch=batch, rsc_batch=batch)
    return dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, **{"attention": "chunked"} | model),
        optim=optim,
        data=dataclasses.replace(settings.data, pool=optim.batch),
    )
