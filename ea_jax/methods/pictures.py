"""Pictures that the frozen model makes for training, as clean packed latents, and their cache.

I_f, the pictures of the concept (L_lora, L_rsc), those of prompts to preserve (L_keep), and those
of anchor prompts (CA, Meta-Unlearning). They stay latents: nothing is decoded, so nothing of the
kind can reach a disk as a picture.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import struct
from jax.sharding import Mesh

from ea_jax.concepts.array_cache import cached
from ea_jax.concepts.bank import PromptBank
from ea_jax.concepts.rows import WORD
from ea_jax.flux import latents
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.transformer import Text
from ea_jax.methods.method import Needs
from ea_jax.painter import VERSION, Sampling, sampled
from ea_jax.runtime.fingerprint import checksum
from ea_jax.runtime.hosts import on_host
from ea_jax.runtime.mesh import pad_rows
from ea_jax.runtime.streams import stream
from ea_jax.settings import Settings

_log = logging.getLogger(__name__)
# Training draws its seeds from here on; those of grids and of the evaluation are smaller.
FIRST_SEED = 2**31
_KEPT_AT_ONCE = 32  # pictures or more, as a whole number of batches
_OF_CONCEPT, _TO_KEEP, _OF_ANCHOR = 101, 102, 103


class Pictures(struct.PyTreeNode):
    """Clean packed latents [B, S, C], the prompts that made them, and row weights [B]."""

    latent_BSC: jax.Array
    text: Text
    weight_B: jax.Array


@dataclasses.dataclass(frozen=True)
class LatentSet:
    """Pictures in host memory.

    Attributes:
      latent_PSC: float32, clean and packed.
      number_P: the prompt of each, a number in its group of the prompt bank.
      seeds: of each one's noise.
    """

    latent_PSC: np.ndarray
    number_P: np.ndarray
    seeds: Sequence[int]

    def batch(
        self, picked_B: np.ndarray, said: Callable[[np.ndarray], Text], parts: int
    ) -> Pictures:
        """Some of them with their prompts, filled up for `parts` devices to share.

        Args:
          picked_B: which.
          said: numbers of prompts -> the prompts.
          parts: see `batch_parts`.
        """
        content: Any = {
            "latent_BSC": self.latent_PSC[picked_B],
            "text": said(self.number_P[picked_B]),
        }
        padded, weight_B = pad_rows(content, parts)
        return Pictures(weight_B=weight_B, **padded)


def training_seeds(count: int, *, seed: int, kind: int) -> list[int]:
    """Seeds of pictures, a function of the run's seed and of what they are for.

    Returns:
      `count` different integers in [2**31, 2**32).
    """
    first = int(stream(seed, kind).integers(2**31))
    return [FIRST_SEED + (first + i) % 2**31 for i in range(count)]


def in_turn(count: int, size: int, step: int, *, seed: int, purpose: int) -> np.ndarray:
    """Numbers of the pictures that a step trains on: all of them once, then in a new order.

    Args:
      count: how many pictures there are.
      size: how many a step takes.
      step: from 0.
      seed: of the run.
      purpose: key of their stream.
    """
    places = np.arange(step * size, (step + 1) * size)
    orders = {
        turn: stream(seed, purpose, turn).permutation(count)
        for turn in set((places // count).tolist())
    }
    return np.array([orders[place // count][place % count] for place in places.tolist()])


def sample(
    pipeline: Pipeline,
    text: Text,
    seeds: Sequence[int],
    *,
    settings: Settings,
    mesh: Mesh,
    lora: Any,
    fingerprint: str,
    what: str,
) -> np.ndarray:
    """Latents of the frozen model's pictures, sampled or read from the cache.

    They are kept part by part: a run that is killed samples at most one part again.

    Args:
      pipeline: with its transformer loaded.
      text: encoded prompts in host memory, one for each picture.
      seeds: of their noise.
      settings: of the run; steps, guidance, resolution, batch and cache.
      mesh: that the weights lie on.
      lora: adapters that change nothing.
      fingerprint: of the transformer.
      what: they are, for the log.
    Returns:
      [P, S, C] float32, packed.
    Raises:
      NonFiniteError: the model gave NaN or Inf; that part isn't kept.
    """
    model = settings.model
    sigmas = pipeline.sigmas(settings.sample.steps, model.resolution, model.resolution)
    shared = {
        "version": VERSION,
        "base": fingerprint,
        "sigmas": sigmas.tolist(),
        "resolution": model.resolution,
        "guidance": model.guidance,
        "dtype": model.dtype,
        "attention": model.attention,
    }
    batch, count = settings.sample.batch, len(seeds)
    size = batch * math.ceil(_KEPT_AT_ONCE / batch)
    parts = []
    for start in range(0, count, size):
        rows = slice(start, min(start + size, count))
        own: Text = jax.tree.map(lambda x, rows=rows: x[rows], text)
        inputs = {"text": checksum(own.t5_BTD, own.pooled_BD), "seeds": list(seeds[rows]), **shared}

        def made(own: Text = own, rows: slice = rows) -> tuple[np.ndarray]:
            found = _sample(pipeline, own, seeds[rows], settings, mesh, lora)
            _log.info("sampled %d of %d %s", rows.stop, count, what)
            return (found,)

        [latent_PSC] = cached(
            *(settings.data.cache, inputs, made),
            names=("latent_PSC",),
            kind="latents",
            what=f"{what}, {start + 1} to {rows.stop} of {count}",
        )
        parts.append(latent_PSC)
    return np.concatenate(parts)


def latent_sets(
    pipeline: Pipeline,
    bank: PromptBank,
    needs: Needs,
    *,
    settings: Settings,
    mesh: Mesh,
    lora: Any,
    fingerprint: str,
) -> dict[str, LatentSet]:
    """Pictures of the concept's sentences, of prompts to keep and of anchors, as far as needed.

    Args:
      pipeline: with its transformer loaded.
      bank: encoded prompts.
      needs: of the method.
      settings, mesh, lora, fingerprint: see `sample`.
    """

    def latents_of(group: str, number_P: np.ndarray, seeds: Sequence[int], what: str) -> LatentSet:
        text = bank.text(group, number_P)
        latent_PSC = sample(
            pipeline,
            text,
            seeds,
            settings=settings,
            mesh=mesh,
            lora=lora,
            fingerprint=fingerprint,
            what=what,
        )
        return LatentSet(latent_PSC, number_P, seeds)

    return {name: latents_of(*wanted) for name, wanted in _wanted(bank, needs, settings).items()}


def blank(
    bank: PromptBank, needs: Needs, settings: Settings, shape: tuple[int, int]
) -> dict[str, LatentSet]:
    """Sets of the same shapes: zeros that take no memory.

    Args:
      bank, needs, settings: see `latent_sets`.
      shape: [S, C] of a packed latent.
    """
    return {
        name: LatentSet(
            np.broadcast_to(np.zeros((), np.float32), (len(number_P), *shape)), number_P, seeds
        )
        for name, (_, number_P, seeds, _) in _wanted(bank, needs, settings).items()
    }


def _wanted(
    bank: PromptBank, needs: Needs, settings: Settings
) -> dict[str, tuple[str, np.ndarray, list[int], str]]:
    """Group, prompts, seeds and description of each set that is needed."""
    data, seed, wanted = settings.data, settings.optim.seed, {}
    if needs.concept:
        each = [np.resize(bank.plain(concept=c), data.pictures) for c in range(bank.concepts)]
        numbers = np.concatenate(each)
        seeds = training_seeds(len(numbers), seed=seed, kind=_OF_CONCEPT)
        wanted["concept"] = ("plain", numbers, seeds, "pictures of the concept")
    if needs.keep:
        count = len(bank.groups["preserve"].prompt_G)
        numbers = np.tile(np.arange(count), data.keep_pictures)
        seeds = training_seeds(len(numbers), seed=seed, kind=_TO_KEEP)
        wanted["keep"] = ("preserve", numbers, seeds, "pictures to keep")
    if count := max(needs.anchor, 0 if bank.near else needs.related):
        each = [np.resize(_in_turns(bank, concept), count) for concept in range(bank.concepts)]
        numbers = np.concatenate(each)
        seeds = training_seeds(len(numbers), seed=seed, kind=_OF_ANCHOR)
        wanted["anchor"] = ("anchor", numbers, seeds, "pictures of anchor prompts")
    return wanted


def _in_turns(bank: PromptBank, concept: int) -> np.ndarray:
    """A concept's rows, one of each of its names after another: sentences in turn."""
    rows = bank.rows(concept=concept)
    turn = np.arange(len(rows)) % len(bank.rows(concept=concept, names=(WORD,)))
    return rows[np.argsort(turn, kind="stable")]


def _sample(
    pipeline: Pipeline,
    text: Text,
    seeds: Sequence[int],
    settings: Settings,
    mesh: Mesh,
    lora: Any,
) -> np.ndarray:
    batches = sampled(pipeline, text, seeds, sampling=Sampling.of(settings), mesh=mesh, lora=lora)
    return np.concatenate(
        [on_host(latents.pack(z_BhwC)).astype(np.float32)[:count] for z_BhwC, count in batches]
    )
