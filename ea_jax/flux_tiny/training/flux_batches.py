"""What flux-tiny's transformer trains on: latents of scenes, ids of captions, phases of a run.

Styles and backgrounds are learnt long before objects. So there is a time in which most samples show
one object in the default style, at noise levels where its shape is decided, and then one for pairs
and relations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import struct

from ea_jax.flux_tiny.training.loop import Weights

PART_TOKENS = 750


@dataclasses.dataclass(frozen=True)
class Phase:
    """What is drawn from step `begins` on, until the next phase begins.

    Attributes:
      begins: first step.
      one_object, two_objects: shares of samples that show so many objects, and no relation, in
        the default style.
      relation: share of samples that show a relation, in the default style.
      default_style: share of samples in the default style, whatever they show.
      t_mean: of the logit of the noise level.
      larger: how many times the usual batch.
    """

    begins: int
    one_object: float = 0.0
    two_objects: float = 0.0
    relation: float = 0.0
    default_style: float = 0.0
    t_mean: float = 0.8
    larger: int = 1


_PAIRS = Phase(
    14_700, one_object=0.25, two_objects=0.22, relation=0.13, default_style=0.1, t_mean=1.2
)


@dataclasses.dataclass(frozen=True)
class FluxTraining:
    """How the transformer is trained.

    Attributes:
      text_length: T5 tokens of most batches; captions are cut there.
      longer: {T5 tokens: (every how many steps, batch size)} of the others.
      text_first: steps in which every sample's pooled CLIP is the empty prompt's, or 0.
      phases: what is drawn when, in order of their steps; the first begins at 0.
      pooled_empty, pooled_zero, pooled_other: share of samples whose pooled CLIP is the empty
        prompt's, 0, or another caption's: T5 alone can be relied on.
      caption_empty: share of samples without a caption, for classifier-free guidance.
      early: weight of the velocity after the dual-stream blocks.
      t_deviation: of the logit of the noise level; its mean is the phase's.
    """

    text_length: int = 24
    longer: tuple[tuple[int, int, int], ...] = ((32, 7, 64), (64, 23, 32), (512, 101, 8))
    text_first: int = 2750
    phases: tuple[Phase, ...] = (
        Phase(0),
        Phase(3750, one_object=0.7, t_mean=1.4),
        Phase(7250, one_object=0.4, default_style=0.35, t_mean=1.2),
        Phase(10_300, one_object=0.4, two_objects=0.15, default_style=0.2, t_mean=1.2),
        _PAIRS,
        dataclasses.replace(_PAIRS, begins=19_250, larger=4),
    )
    pooled_empty: float = 0.4
    pooled_zero: float = 0.05
    pooled_other: float = 0.25
    caption_empty: float = 0.1
    early: float = 0.3
    t_deviation: float = 1.1


class Encoders(struct.PyTreeNode):
    """Frozen text encoders, and the empty prompt's ids."""

    t5: Weights
    clip: Weights
    empty_t5_T: jax.Array
    empty_clip_T: jax.Array


class FluxBatch(struct.PyTreeNode):
    """Latents float16 [B, S, C], ids [B, T] of their captions, and the encoders.

    `withheld` is True in the steps that have no pooled CLIP; `t_mean` is that of the logit of the
    noise level.
    """

    latent_BSC: jax.Array | np.ndarray
    t5_BT: jax.Array | np.ndarray
    clip_BT: jax.Array | np.ndarray
    encoders: Encoders
    withheld: jax.Array | np.ndarray
    t_mean: jax.Array | np.ndarray


def tokenize(
    captions: Sequence[Sequence[str]], t5_tokenizer: Any, clip_tokenizer: Any, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ids [N, captions, length] int16 for T5 and for CLIP.

    CLIP pools at the end token and is causal: what comes after it need not be there.
    """
    flat = [caption for row in captions for caption in row]
    made = []
    for tokenizer in (t5_tokenizer, clip_tokenizer):
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        parts = [
            np.asarray(tokenizer(flat[first : first + 10_000], **options)["input_ids"], np.int16)
            for first in range(0, len(flat), 10_000)
        ]
        made.append(np.concatenate(parts).reshape(len(captions), -1, length))
    return made[0], made[1]


def split(batch: FluxBatch) -> tuple[Any, Callable[[Any], FluxBatch]]:
    """Parts of a batch of at most `PART_TOKENS` tokens, for `loop.make_step` on a CPU."""
    B, S, T = *batch.latent_BSC.shape[:2], batch.t5_BT.shape[1]
    rows = max(n for n in range(1, B + 1) if B % n == 0 and (n == 1 or n * (S + T) <= PART_TOKENS))
    content = (batch.latent_BSC, batch.t5_BT, batch.clip_BT)
    parts = jax.tree.map(lambda x: x.reshape(B // rows, rows, *x.shape[1:]), content)
    rest = {name: getattr(batch, name) for name in ("encoders", "withheld", "t_mean")}
    return parts, lambda part: FluxBatch(*part, **rest)


def batches(
    latents_PSC: np.ndarray,
    t5_PGT: np.ndarray,
    clip_PGT: np.ndarray,
    encoders: Encoders,
    training: FluxTraining,
    *,
    groups: Mapping[str, np.ndarray],
    batch: int,
    seed: int,
) -> Callable[[int], FluxBatch]:
    """Step number -> batch; rows, captions and text length depend on seed and step alone.

    Args:
      latents_PSC, t5_PGT, clip_PGT: scenes, and ids of their G captions.
      encoders: ride along with each batch.
      training: what is drawn, and when.
      groups: rows that a phase's shares are drawn from, by the share's name.
      batch: rows of a batch of the usual text length, in a phase that has no larger ones.
      seed: of everything drawn here.
    """

    def at(step: int) -> FluxBatch:
        rng = np.random.default_rng((seed, step))
        size, length = batch, training.text_length
        for other, every, its_size in training.longer:
            if step % every == every - 1:
                size, length = its_size, other
        phase = [phase for phase in training.phases if phase.begins <= step][-1]
        size *= phase.larger
        rows = rng.integers(len(latents_PSC), size=size)
        u, below = rng.random(size), 0.0
        for name, group in groups.items():
            above = below + getattr(phase, name)
            some = group[rng.integers(len(group), size=size)]
            rows = np.where((below <= u) & (u < above), some, rows)
            below = above
        rows = np.sort(rows)
        which = rng.integers(t5_PGT.shape[1], size=size)
        ids_BT = t5_PGT[rows, which].astype(np.int32)
        padded = np.pad(ids_BT, ((0, 0), (0, length - ids_BT.shape[1])))  # T5 pads with 0
        return FluxBatch(
            latent_BSC=np.asarray(latents_PSC[rows]),
            t5_BT=padded,
            clip_BT=clip_PGT[rows, which].astype(np.int32),
            encoders=encoders,
            withheld=np.asarray(step < training.text_first),
            t_mean=np.asarray(phase.t_mean, np.float32),
        )

    return at
