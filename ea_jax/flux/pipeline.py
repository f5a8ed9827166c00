"""A FLUX pipeline from a diffusers folder: encode prompts, sample, decode; parts come and go.

pipe = Pipeline.load("flux-tiny")
edit = edits.load("runs/soccer")
images = pipe.paint(["a soccer ball on grass"], seeds=[0], lora=edit.lora(1.0))
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ea_jax.flux import encoders, latents, sampler, tokens, vae
from ea_jax.flux.columns import ColumnGain
from ea_jax.flux.finite import require_finite
from ea_jax.flux.parts import Parts
from ea_jax.flux.tokens import Tokens
from ea_jax.flux.transformer import Text, Weights
from ea_jax.runtime.streams import normal


class Pipeline(Parts):
    """A FLUX pipeline: prompts, latents and pictures, by the parts that are loaded."""

    def encode(
        self, prompts: Sequence[str], *, max_length: int | None = None
    ) -> tuple[Text, Tokens]:
        """Encodes prompts with T5 and CLIP, a few at a time.

        Args:
          prompts: texts.
          max_length: T5 tokens, padding included; None is 512 for dev, 256 for schnell.
        Returns:
          The encoded text, and T5's tokens with their offsets.
        Raises:
          ValueError: an encoder isn't loaded, no prompts, or a length out of range.
        """
        clip_weights, t5_weights = self.loaded("text_encoder"), self.loaded("text_encoder_2")
        if max_length is None:
            max_length = 512 if self.transformer_config.guidance_embeds else 256
        t5_tokens = tokens.tokenize(self.t5_tokenizer, prompts, max_length)
        clip_tokens = tokens.tokenize(
            self.clip_tokenizer,
            prompts,
            self.clip_config.max_position_embeddings,
            beside=t5_tokens,
        )
        text = Text(
            t5_BTD=encoders.encode_t5(t5_weights, self.t5_config, t5_tokens.ids_BT),
            pooled_BD=encoders.pool_clip(clip_weights, self.clip_config, clip_tokens.ids_BT),
        )
        return text, t5_tokens

    def sigmas(self, steps: int, height: int, width: int) -> np.ndarray:
        """Noise levels [steps + 1] of a picture of that many pixels, from 1 down to 0."""
        h, w, _ = self.latent_shape(height, width)
        return self.schedule.sigmas(steps, h * w // latents.PATCH**2)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Rows, columns and channels of a picture's latents; ValueError for a wrong size."""
        size = latents.size(height, width, self.vae_config.factor)
        return (*size, self.vae_config.latent_channels)

    @property
    def usual_steps(self) -> int:
        """Euler steps where none are asked for: 28 for dev, 4 for schnell."""
        return 28 if self.transformer_config.guidance_embeds else 4

    def check_guidance(self, guidance: float) -> None:
        """Raises ValueError for a guidance that this model can't take."""
        if not self.transformer_config.guidance_embeds:
            raise ValueError(
                f"guidance={guidance}, but this model has no guidance embedding (schnell); "
                "leave it None"
            )
        if not 0 <= guidance <= float(jnp.finfo(jnp.float32).max):
            raise ValueError(
                f"guidance={guidance} is out of range; it has to be a finite number from 0 on"
            )

    def sample(
        self,
        text: Text,
        *,
        seeds: Sequence[int] | None = None,
        noise_BhwC: jax.Array | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        height: int | None = None,
        width: int | None = None,
        lora: Any = None,
        weights: Weights | None = None,
        column_gain: ColumnGain | None = None,
        attention: str = "chunked",
        negative: Text | None = None,
        true_cfg: float | None = None,
    ) -> jax.Array:
        """Samples latents; compiled once per shape.

        Args:
          text: encoded prompts, one per picture, or one for all.
          seeds: one per picture; see `latents.noise`.
          noise_BhwC: starting noise, in place of seeds; sets the picture's size.
          steps: Euler steps; None is 28 for dev, 4 for schnell.
          guidance: distilled guidance scale; None is 3.5 for dev. schnell has none.
          height, width: in pixels; None is the VAE's own size (1024 for FLUX.1).
          lora: adapters with strength folded in, or None.
          weights: transformer weights in place of the loaded ones, e.g. with deltas added.
          column_gain: factors on text columns.
          attention: name of the attention backend.
          negative, true_cfg: encoded prompts to steer away from, one per picture or one for all,
            and how strongly; see `sampler.sample`. Neither or both.
        Returns:
          [B, h, w, C] latents as the transformer sees them; `decode` makes pictures of them.
        Raises:
          ValueError: sizes, seeds, text, guidance or negative prompts that don't fit.
        """
        if weights is None:
            weights = self.loaded("transformer")
        distilled = self.transformer_config.guidance_embeds
        if guidance is not None:
            self.check_guidance(guidance)
        if (seeds is None) == (noise_BhwC is None):
            raise ValueError("give either seeds or noise_BhwC, not both and not neither")
        if noise_BhwC is None:
            shape = self.latent_shape(
                self.side if height is None else height, self.side if width is None else width
            )
            noise_BhwC = latents.noise(seeds or [], shape)
        batch, h, w, _ = noise_BhwC.shape
        if h % latents.PATCH or w % latents.PATCH:
            raise ValueError(f"noise of {h} x {w} latents can't be packed; both must be even")
        if steps is None:
            steps = self.usual_steps
        grid = latents.grid((h, w))
        packed_BSC, _ = sampler.sample(
            weights,
            self.transformer_config,
            latents.pack(noise_BhwC),
            _broadcast(text, batch),
            sigmas=self.schedule.sigmas(steps, grid[0] * grid[1]),
            grid=grid,
            guidance=(3.5 if guidance is None else guidance) if distilled else None,
            lora=lora,
            column_gain=column_gain,
            attention=attention,
            negative=None if negative is None else _broadcast(negative, batch),
            true_cfg=true_cfg,
        )
        return latents.unpack(packed_BSC, grid)

    def decode(self, z_BhwC: jax.Array) -> jax.Array:
        """Pictures [B, H, W, 3], float32 in [0, 1], from latents as `sample` returns them."""
        return _decode(self.loaded("vae"), self.vae_config, z_BhwC)

    def encode_images(self, images_BHWC: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Latents [B, h, w, C] as the transformer sees them.

        Args:
          images_BHWC: pictures in [0, 1].
          key: to draw from the VAE's posterior; None takes its mean.
        Raises:
          ValueError: a size the VAE and packing don't divide.
        """
        self.latent_shape(*images_BHWC.shape[1:3])
        return _encode_images(self.loaded("vae"), self.vae_config, images_BHWC, key)

    def paint(
        self,
        prompts: str | Sequence[str],
        *,
        seeds: Sequence[int],
        max_length: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        height: int | None = None,
        width: int | None = None,
        lora: Any = None,
    ) -> np.ndarray:
        """Pictures from prompts, in one batch; arguments as for `encode` and `sample`.

        Args:
          prompts: one per seed, or one for all.
          seeds: one per picture.
        Returns:
          [B, H, W, 3] float32 in [0, 1].
        Raises:
          NonFiniteError: a picture holds NaN or Inf.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        text, _ = self.encode(prompts, max_length=max_length)
        z_BhwC = self.sample(
            text,
            seeds=seeds,
            steps=steps,
            guidance=guidance,
            height=height,
            width=width,
            lora=lora,
        )
        return require_finite(np.asarray(self.decode(z_BhwC)))


def _broadcast(text: Text, batch: int) -> Text:
    rows = text.t5_BTD.shape[0]
    if rows == batch:
        return text
    if rows != 1:
        raise ValueError(
            f"{rows} prompts for {batch} pictures; give one prompt, or as many as seeds"
        )
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape[1:])), text)


@functools.partial(jax.jit, static_argnums=1)
def _decode(weights, config, z_BhwC):
    z_BhwC = z_BhwC / config.scaling_factor + config.shift_factor
    images = vae.decode(weights, config, z_BhwC)
    return jnp.clip(images.astype(jnp.float32) / 2 + 0.5, 0, 1)


@functools.partial(jax.jit, static_argnums=1)
def _encode_images(weights, config, images_BHWC, key):
    dtype = jax.tree.leaves(weights)[0].dtype
    mean, logvar = vae.encode(weights, config, (2 * images_BHWC - 1).astype(dtype))
    z_BhwC = mean
    if key is not None:
        spread = jnp.exp(0.5 * logvar.astype(jnp.float32))
        z_BhwC = mean + spread * normal(key, mean.shape)
    return ((z_BhwC - config.shift_factor) * config.scaling_factor).astype(dtype)
