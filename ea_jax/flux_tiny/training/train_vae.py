"""flux-tiny's VAE: absolute error, edges and a strong KL, so that latents are smooth to paint in.

A pixel-perfect autoencoder hides fine detail in its latents, and a diffusion model then has to
learn that detail. The KL's weight is chosen for about 31 dB instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ea_jax.flux import vae
from ea_jax.flux_tiny.training.loop import Weights

PIXEL_MAX = 127.5
LATENT_NOISE = 0.03  # deviations of a latent


@dataclasses.dataclass(frozen=True)
class VaeLossConfig:
    """Weights of the VAE's loss; `crop` px squares train faster than whole scenes."""

    kl: float
    edges: float
    crop: int


def to_unit(images_BHWC: np.ndarray | jax.Array) -> jax.Array:
    """uint8 pixels to float32 in [-1, 1]."""
    return jnp.asarray(images_BHWC, jnp.float32) / PIXEL_MAX - 1


def vae_loss(
    weights: Weights, images_BHWC: jax.Array, key: jax.Array, *, config: Any, loss: VaeLossConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Negative evidence bound with Laplace pixels, and the same error on neighbour differences.

    Args:
      weights: of the VAE, float32.
      images_BHWC: uint8.
      key: noise of the latents.
      config: the VAE's `VaeConfig`.
      loss: weights of the terms.
    Returns:
      Scalar, and its terms: `error` (mean absolute, [-1, 1]), `kl` (nats per latent number),
      `psnr` (dB, of this batch).
    """
    target = to_unit(images_BHWC)
    mean, logvar = vae.encode(weights, config, target)
    noise = jax.random.normal(key, mean.shape)
    painted = vae.decode(weights, config, mean + jnp.exp(0.5 * logvar) * noise)
    error, edges, psnr = _errors(painted - target)
    kl = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1 - logvar).mean()
    total = error + loss.edges * edges + loss.kl * kl
    return total, {"error": error, "kl": kl, "psnr": psnr}


class DecoderBatch(struct.PyTreeNode):
    """uint8 pictures [B, H, W, 3], and the frozen encoder."""

    images_BHWC: jax.Array | np.ndarray
    encoder: Weights


def decoder_loss(
    decoder: Weights, batch: DecoderBatch, key: jax.Array, *, config: Any, loss: VaeLossConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The same error with the encoder frozen: latents stay, pictures get sharper.

    Latents are blurred by a little noise, since those that a sampler makes are not exact.
    """
    target = to_unit(batch.images_BHWC)
    weights = {"encoder": batch.encoder, "decoder": decoder}
    mean = jax.lax.stop_gradient(vae.encode(weights, config, target)[0])
    blurred = mean + LATENT_NOISE * jax.random.normal(key, mean.shape) / config.scaling_factor
    error, edges, psnr = _errors(vae.decode(weights, config, blurred) - target)
    return error + loss.edges * edges, {"error": error, "psnr": psnr}


def _errors(difference: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean absolute error in [-1, 1], that of neighbour differences, and the PSNR in dB."""
    edges = (
        jnp.abs(jnp.diff(difference, axis=1)).mean() + jnp.abs(jnp.diff(difference, axis=2)).mean()
    )
    # A difference of 2 spans the range.
    psnr = 10 * jnp.log10(4 / jnp.square(difference).mean())
    return jnp.abs(difference).mean(), edges, psnr


def image_batches(
    images_PHWC: np.ndarray, *, batch: int, crop: int, seed: int
) -> Callable[[int], np.ndarray]:
    """Step number -> random scenes, cut to `crop` px at an offset shared by the batch."""
    size = images_PHWC.shape[1]
    if not 0 < crop <= size:
        raise ValueError(f"crop is {crop}; it must be 1 to {size}, the scenes' size")

    def at(step: int) -> np.ndarray:
        rng = np.random.default_rng((seed, step))
        rows = np.sort(rng.choice(len(images_PHWC), batch, replace=batch > len(images_PHWC)))
        top, left = rng.integers(0, size - crop + 1, 2)
        return np.asarray(images_PHWC[rows, top : top + crop, left : left + crop])

    return at


def encode_all(
    weights: Weights, config: Any, images_PHWC: np.ndarray, *, batch: int = 64
) -> np.ndarray:
    """Latent means of all scenes, [N, h, w, C] float32, as the VAE puts them out (unscaled)."""
    encode = jax.jit(lambda w, x: vae.encode(w, config, x)[0])
    return _in_batches(lambda x: encode(weights, to_unit(x)), images_PHWC, batch)


def rebuild_all(
    weights: Weights, config: Any, images_PHWC: np.ndarray, *, batch: int = 64
) -> np.ndarray:
    """All scenes after encoder (its means) and decoder, uint8 like them."""

    @jax.jit
    def rebuild(w: Weights, images: jax.Array) -> jax.Array:
        painted = vae.decode(w, config, vae.encode(w, config, to_unit(images))[0])
        return jnp.clip((painted + 1) * PIXEL_MAX + 0.5, 0, 255).astype(jnp.uint8)

    return _in_batches(lambda x: rebuild(weights, x), images_PHWC, batch)


def _in_batches(
    convert: Callable[[np.ndarray], jax.Array], images_PHWC: np.ndarray, batch: int
) -> np.ndarray:
    """`convert` of all pictures, in batches of one size."""
    parts = []
    for first in range(0, len(images_PHWC), batch):
        images = np.asarray(images_PHWC[first : first + batch])
        padded = np.pad(images, ((0, batch - len(images)), (0, 0), (0, 0), (0, 0)))
        parts.append(np.asarray(convert(padded))[: len(images)])
    return np.concatenate(parts)


def measure_scaling(latents_NhwC: np.ndarray) -> tuple[float, float]:
    """(shift_factor, scaling_factor): mean and inverse deviation over all latent numbers."""
    values = np.asarray(latents_NhwC, np.float64)
    return float(values.mean()), float(1 / values.std())


def measure_psnr(
    weights: Weights, config: Any, images_PHWC: np.ndarray, *, batch: int = 32
) -> np.ndarray:
    """Peak signal-to-noise ratio of each scene rebuilt from its latent mean, [N] in dB."""

    def rebuild(w: Weights, x: jax.Array) -> jax.Array:
        return jnp.clip(vae.decode(w, config, vae.encode(w, config, x)[0]), -1, 1)

    rebuild = jax.jit(rebuild)
    values = []
    for first in range(0, len(images_PHWC) - batch + 1, batch):
        target = to_unit(np.asarray(images_PHWC[first : first + batch]))
        squared = jnp.square(rebuild(weights, target) - target).mean((1, 2, 3))
        values.append(np.asarray(10 * jnp.log10(4 / jnp.maximum(squared, 1e-10))))
    return np.concatenate(values)
