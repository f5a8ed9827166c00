"""Prompts and seeds to pictures, by the frozen model or with any edit at any strength.

    painter = Painter(pipeline, mesh=mesh, sampling=Sampling(steps=28, batch=4))
    before = painter.paint("a photo of a cat", seeds=[0, 1])
    after = painter.paint("a photo of a cat", seeds=[0, 1], edit=edit, strength=0.5)

Runs, evaluation and commands all paint here. Pictures of one batch size come from one program. An
edit that zeroes columns is a filter of words: `hidden` keeps them from what any query sees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ea_jax import edits
from ea_jax.concepts import spans
from ea_jax.concepts.encoding import Encoded
from ea_jax.edits import Edit
from ea_jax.flux import latents
from ea_jax.flux.columns import ColumnGain
from ea_jax.flux.finite import require_finite
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.transformer import Text
from ea_jax.runtime.hosts import on_host
from ea_jax.runtime.mesh import put, put_rows, sharding
from ea_jax.settings import Settings

# Changes when the same inputs would give other pictures.
VERSION = 7


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How pictures are sampled.

    Attributes:
      steps: Euler steps; None is 28 for dev, 4 for schnell.
      guidance: distilled guidance; None is 3.5 for dev. schnell has none.
      resolution: side of the square pictures in pixels; None is the model's own.
      batch: pictures painted at once.
      attention: name of the attention backend.
    """

    steps: int | None = None
    guidance: float | None = None
    resolution: int | None = None
    batch: int = 1
    attention: str = "chunked"

    @classmethod
    def of(cls, settings: Settings) -> Sampling:
        """That of a run."""
        model, sample = settings.model, settings.sample
        return cls(sample.steps, model.guidance, model.resolution, sample.batch, model.attention)

    def side(self, pipeline: Pipeline) -> int:
        """Of the pictures, in pixels."""
        return pipeline.side if self.resolution is None else self.resolution


class Painter:
    """Paints with a pipeline, one batch after another.

    Attributes:
      pipeline: with its transformer loaded; the VAE is loaded when the first picture is due.
      mesh: that the weights lie on.
      sampling: how pictures are sampled.
      no_edit: adapters that change nothing, with which the frozen model is painted: the same bits,
        in the program of edits of that shape. None paints it without any.
      fingerprint: of the transformer; None where nothing is kept in a cache.
      text_length: T5 tokens of a prompt; None is the pipeline's usual number.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        mesh: Mesh,
        sampling: Sampling,
        texts: Encoded | None = None,
        text_length: int | None = None,
        no_edit: Any = None,
        fingerprint: str | None = None,
    ) -> None:
        """Attributes as above.

        Args:
          texts: encoded prompts, all that will be painted; None encodes each when it is painted,
            by encoders that are loaded.
          text_length: of what is encoded.
        """
        self.pipeline, self.mesh, self.sampling = pipeline, mesh, sampling
        self.no_edit, self.fingerprint = no_edit, fingerprint
        self._texts = texts
        self.text_length = text_length if texts is None else texts.t5_UTD.shape[1]
        self._bound: tuple[Edit, float, tuple[Any, Any]] | None = None
        self._before: dict[tuple[Any, Any], np.ndarray] = {}

    def paint(
        self,
        prompts: str | Sequence[str] | Text,
        seeds: Sequence[int],
        *,
        edit: Edit | None = None,
        strength: float | None = None,
    ) -> np.ndarray:
        """Pictures [P, H, W, 3], float32 in [0, 1]; arguments and errors as for `sample`."""
        return self.sample(prompts, seeds, edit=edit, strength=strength)[1]

    def sample(
        self,
        prompts: str | Sequence[str] | Text,
        seeds: Sequence[int],
        *,
        edit: Edit | None = None,
        strength: float | None = None,
        word_PT: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Latents [P, h, w, C] and their pictures [P, H, W, 3], in host memory.

        Args:
          prompts: one for each picture or one for all; or encoded, as many rows as pictures.
          seeds: one for each picture.
          edit: None is the frozen model.
          strength: of the edit; None takes its recommended one, or 1.
          word_PT: where the words stand whose columns the edit zeroes; None finds them, but not in
            prompts that are encoded.
        Raises:
          ValueError: a prompt that can't be encoded any more, another number of prompts than of
            seeds, an edit that doesn't fit the model, or one that zeroes columns it can't find.
          NonFiniteError: a picture holds NaN or Inf.
        """
        which = f"of {prompts!r}" if isinstance(prompts, str) else ""
        batches = self.batches(prompts, seeds, edit=edit, strength=strength, word_PT=word_PT)
        self.pipeline.load_part("vae")
        found, images = [], []
        with jax.set_mesh(self.mesh):
            for z_BhwC, count in batches:
                found.append(on_host(z_BhwC)[:count])
                images.append(require_finite(on_host(self.pipeline.decode(z_BhwC))[:count], which))
        return np.concatenate(found), np.concatenate(images)

    def batches(
        self,
        prompts: str | Sequence[str] | Text,
        seeds: Sequence[int],
        *,
        edit: Edit | None,
        strength: float | None,
        word_PT: np.ndarray | None,
    ) -> Iterator[tuple[jax.Array, int]]:
        """Latents as `sampled` yields them, of what `sample` is given."""
        text = prompts if isinstance(prompts, Text) else self.text(prompts, len(seeds))
        weights, lora = self.bound(edit, strength)
        return sampled(
            *(self.pipeline, text, seeds),
            sampling=self.sampling,
            mesh=self.mesh,
            lora=lora,
            weights=weights,
            column_gain=self._gain(edit, strength, prompts, text, word_PT),
        )

    def each(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        edit: Edit | None = None,
        strength: float | None = None,
    ) -> np.ndarray:
        """Pictures of each prompt with each seed, [prompts, seeds, H, W, 3].

        Those of the frozen model are painted once.
        """
        asked = tuple(prompts), tuple(seeds)
        if edit is None and asked in self._before:
            return self._before[asked]
        pairs = [(prompt, seed) for prompt in prompts for seed in seeds]
        images = self.paint(
            [prompt for prompt, _ in pairs],
            [seed for _, seed in pairs],
            edit=edit,
            strength=strength,
        )
        images = images.reshape(len(prompts), len(seeds), *images.shape[1:])
        if edit is None:
            self._before[asked] = images
        return images

    def text(self, prompts: str | Sequence[str], count: int = 1) -> Text:
        """Encoded prompts, one row each; of a single text, `count` rows.

        Raises:
          ValueError: a prompt that isn't among the encoded ones, or an encoder that isn't loaded.
        """
        prompts = [prompts] * count if isinstance(prompts, str) else list(prompts)
        if self._texts is None:
            distinct = list(dict.fromkeys(prompts))
            text, _ = self.pipeline.encode(distinct, max_length=self.text_length)
            rows = np.array([distinct.index(prompt) for prompt in prompts])
            return jax.tree.map(lambda x: x[rows], text)
        for prompt in prompts:
            if prompt not in self._texts.prompts:
                raise ValueError(
                    f"prompt {prompt!r} is not among the {len(self._texts.prompts)} that were "
                    "encoded before the text encoders were dropped; name it when the run is "
                    "prepared"
                )
        return self._texts.text(prompts)

    def _gain(
        self,
        edit: Edit | None,
        strength: float | None,
        prompts: str | Sequence[str] | Text,
        text: Text,
        word_PT: np.ndarray | None,
    ) -> ColumnGain | None:
        """Factors on the columns of each picture, where the edit zeroes any."""
        if edit is None or not edit.zeroed or not (used := edit.used_strength(strength)):
            return None
        count, length = text.t5_BTD.shape[:2]
        if word_PT is None:
            if isinstance(prompts, Text):
                raise ValueError(
                    f"no word {', '.join(edit.zeroed)} can be found in prompts that are encoded; "
                    "paint them by their texts"
                )
            texts = [prompts] * count if isinstance(prompts, str) else prompts
            tokenizer = self.pipeline.t5_tokenizer
            word_PT = spans.standing(tokenizer, texts, edit.zeroed, max_length=length)
        return hidden(word_PT, used)

    def facts(self) -> dict[str, Any]:
        """All that pictures depend on beside weights, prompts and seeds, for a cache's key."""
        pipeline, how = self.pipeline, self.sampling
        side, steps = how.side(pipeline), how.steps or pipeline.usual_steps
        return {
            "sigmas": pipeline.sigmas(steps, side, side).tolist(),
            "model": {
                "resolution": side,
                "guidance": how.guidance,
                "dtype": str(pipeline.dtype),
                "attention": how.attention,
            },
        }

    def bound(self, edit: Edit | None, strength: float | None = None) -> tuple[Any, Any]:
        """Weights and adapters, on the mesh, of an edit (see `edits.bind`) or the frozen model."""
        frozen = self.pipeline.load_part("transformer")
        if edit is None:
            return frozen, self.no_edit
        used = edit.used_strength(strength)
        if self._bound is None or self._bound[0] is not edit or self._bound[1] != used:
            weights, lora = edits.bind(edit, frozen, used)
            everywhere = sharding(self.mesh, ())
            lora = jax.tree.map(lambda leaf: put(leaf, everywhere), lora)
            self._bound = edit, used, (weights, self.no_edit if lora is None else lora)
        return self._bound[2]


def hidden(word_BT: np.ndarray, strength: float = 1.0) -> ColumnGain:
    """Columns of some tokens zeroed in every block: no query sees them.

    Args:
      word_BT: True at the tokens.
      strength: 1 zeroes their columns, 0 leaves them alone.
    """
    keep_BT: Any = 1.0 - np.float32(strength) * word_BT.astype(np.float32)
    return ColumnGain(dual_BT=keep_BT, single_BT=keep_BT)


def sampled(
    pipeline: Pipeline,
    text: Text,
    seeds: Sequence[int],
    *,
    sampling: Sampling,
    mesh: Mesh,
    lora: Any,
    weights: Any = None,
    column_gain: ColumnGain | None = None,
) -> Iterator[tuple[jax.Array, int]]:
    """Latents of pictures, a batch at a time: every picture of a run comes from one program.

    Args:
      pipeline: with its transformer loaded.
      text: encoded prompts, one for each picture.
      seeds: of their noise.
      sampling: how.
      mesh: that the weights lie on; a batch is split over it.
      lora: adapters; those of `lora.init` are the frozen model, bit for bit.
      weights: in place of the pipeline's.
      column_gain: factors on text columns, a row for each picture.
    Yields:
      ([B, h, w, C], n): the first n are new, the rest only fill up the last batch.
    Raises:
      ValueError: another number of prompts than of seeds, or none.
    """
    if not len(seeds) or len(text.t5_BTD) != len(seeds):
        raise ValueError(
            f"{len(text.t5_BTD)} prompts for {len(seeds)} seeds; give one prompt, or as many as "
            "seeds, and at least one seed"
        )
    side = sampling.side(pipeline)
    shape = pipeline.latent_shape(side, side)
    for start in range(0, len(seeds), sampling.batch):
        rows = np.minimum(np.arange(start, start + sampling.batch), len(seeds) - 1)
        own = jax.tree.map(lambda x, rows=rows: x[rows], (text, column_gain))
        noise_BhwC = latents.noise([seeds[row] for row in rows], shape)
        (placed, gain), noise_BhwC = put_rows(mesh, (own, noise_BhwC))
        z_BhwC = pipeline.sample(
            placed,
            noise_BhwC=noise_BhwC,
            steps=sampling.steps,
            guidance=sampling.guidance,
            lora=lora,
            weights=weights,
            column_gain=gain,
            attention=sampling.attention,
        )
        yield z_BhwC, min(sampling.batch, len(seeds) - start)
