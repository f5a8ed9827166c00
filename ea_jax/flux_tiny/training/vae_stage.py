"""flux-tiny's VAE: training, the decoder's sharpening, and what the VAE makes of all scenes."""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import convert.diffusers
from ea_jax.flux import latents, vae
from ea_jax.flux_tiny.training import dataset, loop, train_vae

log = logging.getLogger(__name__)

REBUILT = 160_000  # of the scenes, for the judge
VAE = vae.VaeConfig(
    block_out_channels=(16, 32, 32),
    layers_per_block=1,
    latent_channels=16,
    norm_num_groups=4,
    scaling_factor=1.0,
    shift_factor=0.0,
)
VAE_LOSS = train_vae.VaeLossConfig(kl=1e-3, edges=0.5, crop=32)
VAE_LOOP = loop.LoopConfig(
    steps=2000,
    batch=24,
    learning_rate=4e-3,
    warmup=100,
    weight_decay=1e-4,
    ema=0.995,
    log_every=50,
    save_every=400,
    seed=11,
)
SHARPEN_LOSS = dataclasses.replace(VAE_LOSS, crop=64)
SHARPEN_LOOP = dataclasses.replace(
    VAE_LOOP, steps=2100, batch=32, learning_rate=2e-3, ema=0.998, seed=12
)


def train(data: dataset.Dataset, held_out: dataset.Dataset, work: Path, out: Path) -> None:
    """Trains the VAE and measures its latents' shift and scale."""
    weights = vae.init_weights(VAE, jax.random.key(VAE_LOOP.seed))
    step = loop.make_step(
        functools.partial(train_vae.vae_loss, config=VAE, loss=VAE_LOSS), VAE_LOOP
    )
    batches = train_vae.image_batches(
        data.images, batch=VAE_LOOP.batch, crop=VAE_LOSS.crop, seed=VAE_LOOP.seed
    )
    state = loop.fit(
        step, loop.start(weights, VAE_LOOP), batches, config=VAE_LOOP, folder=work / "vae"
    )
    half = jax.tree.map(lambda w: np.asarray(w, np.float16), state.average)
    weights = jax.tree.map(lambda w: np.asarray(w, np.float32), half)
    psnr = train_vae.measure_psnr(weights, VAE, held_out.images[:512])
    log.info("VAE: %.2f dB (worst twentieth %.2f)", psnr.mean(), np.quantile(psnr, 0.05))
    shift, scale = train_vae.measure_scaling(train_vae.encode_all(weights, VAE, data.images[:4096]))
    config = dataclasses.replace(VAE, scaling_factor=round(scale, 4), shift_factor=round(shift, 4))
    convert.diffusers.replace(half, out, "vae", dtype=np.float16, config=_vae_json(config))


def packed_latents(data: dataset.Dataset, work: Path, out: Path) -> np.ndarray:
    """All scenes' latents [N, S, C] float16 by the VAE in `out`, made once and memory-mapped."""
    path = work / "latents.npy"
    if not path.exists():
        log.info("encoding %d scenes", len(data.images))
        weights, config = _load(out)
        packed = []
        for first in range(0, len(data.images), 4096):
            z = train_vae.encode_all(weights, config, data.images[first : first + 4096])
            z = (z - config.shift_factor) * config.scaling_factor
            packed.append(np.asarray(latents.pack(jnp.asarray(z)), np.float16))
        _save_whole(path, np.concatenate(packed))
    return np.load(path, mmap_mode="r")


def rebuilt_scenes(data: dataset.Dataset, work: Path, out: Path) -> np.ndarray:
    """The first scenes as the VAE in `out` rebuilds them, uint8, made once and memory-mapped."""
    path = work / "rebuilt.npy"
    if not path.exists():
        log.info("rebuilding %d scenes", REBUILT)
        weights, config = _load(out)
        _save_whole(path, train_vae.rebuild_all(weights, config, data.images[:REBUILT]))
    return np.load(path, mmap_mode="r")


def _save_whole(path: Path, array: np.ndarray) -> None:
    draft = path.with_name(f".{path.name}")
    np.save(draft, array)
    draft.replace(path)


def sharpen(data: dataset.Dataset, held_out: dataset.Dataset, work: Path, out: Path) -> None:
    """Trains the VAE's decoder on, its encoder frozen: latents of the transformer stay valid."""
    weights, config = _load(out)
    images = train_vae.image_batches(
        data.images, batch=SHARPEN_LOOP.batch, crop=SHARPEN_LOSS.crop, seed=SHARPEN_LOOP.seed
    )
    loss = functools.partial(train_vae.decoder_loss, config=config, loss=SHARPEN_LOSS)
    state = loop.fit(
        loop.make_step(loss, SHARPEN_LOOP),
        loop.start(weights["decoder"], SHARPEN_LOOP),
        lambda step: train_vae.DecoderBatch(images(step), weights["encoder"]),
        config=SHARPEN_LOOP,
        folder=work / "sharpen",
    )
    weights = {"encoder": weights["encoder"], "decoder": state.average}
    psnr = train_vae.measure_psnr(weights, config, held_out.images[:512])
    log.info("VAE: %.2f dB (worst twentieth %.2f)", psnr.mean(), np.quantile(psnr, 0.05))
    convert.diffusers.replace(weights, out, "vae", dtype=np.float16, config=_vae_json(config))


def _load(out: Path) -> tuple[loop.Weights, vae.VaeConfig]:
    config = vae.VaeConfig.from_json(convert.diffusers.read_config(out, "vae"))
    return convert.diffusers.load(vae.abstract_weights(config), out, "vae"), config


def _vae_json(config: vae.VaeConfig) -> dict:
    blocks = len(config.block_out_channels)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "force_upcast": False,
        "mid_block_add_attention": True,
        "sample_size": 64,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        **dataclasses.asdict(config),
    }
