"""A painter under attack: other encodings of its prompts, pictures to begin from, columns zeroed.

A canvas paints with the model of another painter. What it paints depends on its `facts` and on the
encoded prompts alone, so that readings of its pictures are kept like those of any painter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ea_jax.concepts.encoding import Encoded
from ea_jax.edits import Edit
from ea_jax.flux import latents, sampler
from ea_jax.flux.columns import ColumnGain
from ea_jax.flux.finite import require_finite
from ea_jax.flux.transformer import Text
from ea_jax.painter import Painter, Sampling
from ea_jax.runtime.fingerprint import checksum
from ea_jax.runtime.hosts import on_host
from ea_jax.runtime.mesh import put_rows


@dataclasses.dataclass(frozen=True)
class Said:
    """Encoded prompts, and where the concept's word stands in them.

    Attributes:
      texts: U prompts, T tokens.
      word_UT: True at the tokens of the word, as a filter of words finds them.
    """

    texts: Encoded
    word_UT: np.ndarray


@dataclasses.dataclass(frozen=True)
class Start:
    """Pictures to begin from, in place of pure noise (img2img).

    Attributes:
      level: noise level of the beginning, 0 to 1; all steps lie below it.
      latents: packed, [S, C], of each picture by its prompt and seed.
    """

    level: float
    latents: dict[tuple[str, int], np.ndarray]


class Canvas(Painter):
    """Paints as `painter` does, under attack.

    Args:
      painter: whose model, mesh and fingerprint it has.
      said: all prompts that will be painted.
      sampling: how; None is the painter's.
      start: None begins from noise.
      zeroed: whether the columns of the concept's word are zeroed in every block.
    """

    def __init__(
        self,
        painter: Painter,
        said: Said,
        *,
        sampling: Sampling | None = None,
        start: Start | None = None,
        zeroed: bool = False,
    ) -> None:
        super().__init__(
            painter.pipeline,
            mesh=painter.mesh,
            sampling=sampling or painter.sampling,
            texts=said.texts,
            no_edit=painter.no_edit,
            fingerprint=painter.fingerprint,
        )
        self._said, self._start, self._zeroed = said, start, zeroed

    def facts(self) -> dict[str, Any]:
        """Those of a painter, and what is particular here."""
        facts = super().facts()
        if self._zeroed:
            facts["zeroed"] = checksum(self._said.word_UT)
        if self._start is not None:
            keys = sorted(self._start.latents)
            facts["start"] = [self._start.level, checksum(*(self._start.latents[k] for k in keys))]
        return facts

    def sample(
        self,
        prompts: str | Sequence[str] | Text,
        seeds: Sequence[int],
        *,
        edit: Edit | None = None,
        strength: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Painter.sample`, of prompts by their texts.

        Raises:
          ValueError: as there, or a prompt that is already encoded.
        """
        if isinstance(prompts, Text):
            raise ValueError("a canvas paints prompts by their texts; give the texts")
        names = [prompts] * len(seeds) if isinstance(prompts, str) else list(prompts)
        text, (weights, lora) = self.text(names), self.bound(edit, strength)
        self.pipeline.load_part("vae")
        found, images, batch = [], [], self.sampling.batch
        with jax.set_mesh(self.mesh):
            for first in range(0, len(seeds), batch):
                rows = np.minimum(np.arange(first, first + batch), len(seeds) - 1)
                z_BhwC = self._batch(
                    jax.tree.map(lambda x, rows=rows: x[rows], text),
                    [(names[row], seeds[row]) for row in rows],
                    weights,
                    lora,
                )
                real = min(batch, len(seeds) - first)
                found.append(on_host(z_BhwC)[:real])
                images.append(require_finite(on_host(self.pipeline.decode(z_BhwC))[:real]))
        return np.concatenate(found), np.concatenate(images)

    def _batch(
        self, text: Text, asked: Sequence[tuple[str, int]], weights: Any, lora: Any
    ) -> jax.Array:
        pipeline, how = self.pipeline, self.sampling
        side = how.side(pipeline)
        h, w, _ = shape = pipeline.latent_shape(side, side)
        sigmas = pipeline.sigmas(how.steps or pipeline.usual_steps, side, side)
        x_BSC, gain = latents.pack(latents.noise([seed for _, seed in asked], shape)), None
        if self._start is not None:
            level = self._start.level
            clean_BSC = np.stack([self._start.latents[one] for one in asked])
            x_BSC, sigmas = (1 - level) * clean_BSC + level * x_BSC, level * sigmas
        if self._zeroed:
            numbers = [self._said.texts.prompts.index(prompt) for prompt, _ in asked]
            keep_BT: Any = 1.0 - self._said.word_UT[numbers].astype(np.float32)
            gain = ColumnGain(dual_BT=keep_BT, single_BT=keep_BT)
        text, x_BSC, gain = put_rows(self.mesh, (text, x_BSC, gain))
        distilled = pipeline.transformer_config.guidance_embeds
        grid = latents.grid((h, w))
        packed_BSC, _ = sampler.sample(
            weights,
            pipeline.transformer_config,
            x_BSC,
            text,
            sigmas=sigmas,
            grid=grid,
            guidance=(3.5 if how.guidance is None else how.guidance) if distilled else None,
            lora=lora,
            column_gain=gain,
            attention=how.attention,
        )
        return latents.unpack(packed_BSC, grid)
