"""A painter under attack: prompts encoded otherwise, negative prompts, pictures to begin from.

Or with the word's columns zeroed, or with kernels rounded to a few bits.

A canvas paints with the model of another painter. What it paints depends on its `facts` and on the
encoded prompts alone, so that readings of its pictures are kept like those of any painter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ea_jax.attacks import rounding
from ea_jax.concepts.encoding import Encoded
from ea_jax.edits import Edit
from ea_jax.flux import latents, sampler
from ea_jax.flux.transformer import Text
from ea_jax.painter import Painter, Sampling, hidden
from ea_jax.runtime.fingerprint import checksum
from ea_jax.runtime.hosts import on_host
from ea_jax.runtime.mesh import put_rows

# A prompt and a seed.
Asked = tuple[str, int]


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
    """Latents to begin from, in place of pure noise.

    Attributes:
      level: noise level, 0 to 1, at which pictures are noised first (img2img); all steps lie below
        it. None takes the latents as the noise itself.
      latents: packed, [S, C], by prompt and seed.
    """

    level: float | None
    latents: dict[Asked, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Against:
    """True classifier-free guidance: each prompt has a negative one, to steer away from.

    Attributes:
      texts: negative prompts, encoded.
      negatives: of each prompt, its negative one.
      scale: of the guidance; 1 is without.
    """

    texts: Encoded
    negatives: dict[str, str]
    scale: float

    def text(self, prompts: Sequence[str]) -> Text:
        """The negative prompts of some prompts, a row for each."""
        return self.texts.text([self.negatives[prompt] for prompt in prompts])


class Canvas(Painter):
    """Paints as `painter` does, under attack.

    Args:
      painter: whose model, mesh and fingerprint it has.
      said: all prompts that will be painted.
      sampling: how; None is the painter's.
      start: None begins from noise.
      zeroed: whether the columns of the concept's word are zeroed in every block.
      against: negative prompts.
      rounded: number format that kernels are rounded to, one of `rounding.FORMATS`: the model's,
        with an edit's changes of whole kernels in them; adapters stay as they are.
    """

    def __init__(
        self,
        painter: Painter,
        said: Said,
        *,
        sampling: Sampling | None = None,
        start: Start | None = None,
        zeroed: bool = False,
        against: Against | None = None,
        rounded: str | None = None,
    ) -> None:
        super().__init__(
            painter.pipeline,
            mesh=painter.mesh,
            sampling=sampling or painter.sampling,
            texts=said.texts,
            no_edit=painter.no_edit,
            fingerprint=painter.fingerprint,
        )
        self._painter, self._said, self._start, self._zeroed = painter, said, start, zeroed
        self._against, self._rounded = against, rounded
        self._copy: tuple[Any, Any] | None = None

    def bound(self, edit: Edit | None, strength: float | None = None) -> tuple[Any, Any]:
        """As the painter binds it: the next canvas of the same edit has it at hand.

        Rounded kernels are a second copy in memory, for as long as there is the canvas.
        """
        weights, lora = self._painter.bound(edit, strength)
        if self._rounded is None:
            return weights, lora
        if self._copy is None or self._copy[0] is not weights:
            self._copy = weights, rounding.rounded(weights, self._rounded)
        return self._copy[1], lora

    def facts(self) -> dict[str, Any]:
        """Those of a painter, and what is particular here."""
        facts = super().facts()
        if self._zeroed:
            facts["zeroed"] = checksum(self._said.word_UT)
        if self._against is not None:
            pairs = sorted(self._against.negatives.items())
            negative = self._against.text([prompt for prompt, _ in pairs])
            arrays = (np.asarray(negative.t5_BTD), np.asarray(negative.pooled_BD))
            facts["against"] = [self._against.scale, pairs, checksum(*arrays)]
        if self._rounded is not None:
            facts["rounded"] = self._rounded
        if self._start is not None:
            keys = sorted(self._start.latents)
            facts["start"] = [self._start.level, checksum(*(self._start.latents[k] for k in keys))]
        return facts

    def batches(
        self,
        prompts: str | Sequence[str] | Text,
        seeds: Sequence[int],
        *,
        edit: Edit | None,
        strength: float | None,
        word_PT: np.ndarray | None,
    ) -> Iterator[tuple[jax.Array, int]]:
        """As `Painter.batches`, of prompts by their texts.

        Raises:
          ValueError: as there, a prompt that is already encoded, or an edit that zeroes columns.
        """
        del word_PT  # of edits that zero columns
        if edit is not None:
            edit.require_weights()
        if isinstance(prompts, Text):
            raise ValueError("a canvas paints prompts by their texts; give the texts")
        names = [prompts] * len(seeds) if isinstance(prompts, str) else list(prompts)
        asked = list(zip(names, seeds, strict=True))
        return self._walked(asked, self.bound(edit, strength))

    def inverted(
        self,
        pictures: dict[Asked, np.ndarray],
        *,
        edit: Edit | None = None,
        strength: float | None = None,
    ) -> dict[Asked, np.ndarray]:
        """Noise that the model's own steps lead to pictures from: the schedule walked upwards.

        Args:
          pictures: packed latents [S, C] by prompt and seed.
          edit, strength: as for `sample`.
        """
        found, bound = {}, self.bound(edit, strength)
        with jax.set_mesh(self.mesh):
            for some, real in self._full(list(pictures)):
                x_BSC = np.stack([pictures[one] for one in some])
                x_BSC = self._walk(x_BSC, self._sigmas()[::-1], some, bound)
                found |= dict(zip(some[:real], on_host(x_BSC), strict=False))
        return found

    def _walked(
        self, asked: Sequence[Asked], bound: tuple[Any, Any]
    ) -> Iterator[tuple[jax.Array, int]]:
        for some, real in self._full(asked):
            x_BSC, sigmas = self._begin(some)
            yield latents.unpack(self._walk(x_BSC, sigmas, some, bound), self._grid), real

    @property
    def _grid(self) -> tuple[int, int]:
        side = self.sampling.side(self.pipeline)
        h, w, _ = self.pipeline.latent_shape(side, side)
        return latents.grid((h, w))

    def _sigmas(self) -> np.ndarray:
        side, how = self.sampling.side(self.pipeline), self.sampling
        return self.pipeline.sigmas(how.steps or self.pipeline.usual_steps, side, side)

    def _full(self, asked: Sequence[Asked]) -> Iterator[tuple[list[Asked], int]]:
        """Full batches, the last one filled up, and how many of each are new."""
        batch = self.sampling.batch
        for first in range(0, len(asked), batch):
            rows = np.minimum(np.arange(first, first + batch), len(asked) - 1)
            yield [asked[row] for row in rows], min(batch, len(asked) - first)

    def _begin(self, asked: Sequence[Asked]) -> tuple[Any, np.ndarray]:
        """Latents to begin from, and the noise levels from there on."""
        side, sigmas, start = self.sampling.side(self.pipeline), self._sigmas(), self._start
        if start is not None and start.level is None:
            return np.stack([start.latents[one] for one in asked]), sigmas
        shape = self.pipeline.latent_shape(side, side)
        noise_BSC = latents.pack(latents.noise([seed for _, seed in asked], shape))
        if start is None or start.level is None:
            return noise_BSC, sigmas
        clean_BSC = np.stack([start.latents[one] for one in asked])
        return (1 - start.level) * clean_BSC + start.level * noise_BSC, start.level * sigmas

    def _walk(
        self, x_BSC: Any, sigmas: np.ndarray, asked: Sequence[Asked], bound: tuple[Any, Any]
    ) -> jax.Array:
        pipeline, how = self.pipeline, self.sampling
        prompts = [prompt for prompt, _ in asked]
        text, gain, negative = self.text(prompts), None, None
        if self._zeroed:
            numbers = [self._said.texts.prompts.index(prompt) for prompt in prompts]
            gain = hidden(self._said.word_UT[numbers])
        if self._against is not None:
            negative = self._against.text(prompts)
        text, x_BSC, gain, negative = put_rows(self.mesh, (text, x_BSC, gain, negative))
        distilled = pipeline.transformer_config.guidance_embeds
        weights, lora = bound
        return sampler.sample(
            weights,
            pipeline.transformer_config,
            x_BSC,
            text,
            sigmas=sigmas,
            grid=self._grid,
            guidance=(3.5 if how.guidance is None else how.guidance) if distilled else None,
            lora=lora,
            column_gain=gain,
            attention=how.attention,
            negative=negative,
            true_cfg=None if self._against is None else self._against.scale,
        )[0]
