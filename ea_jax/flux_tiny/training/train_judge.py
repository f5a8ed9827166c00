"""Training of the judge: heads and captions on renders, "broken" on what is made of them."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ea_jax.evaluate.metrics import Rate
from ea_jax.flux_tiny import judge
from ea_jax.flux_tiny.detector import JudgeDetector
from ea_jax.flux_tiny.judge import LABELS, Judge, JudgeConfig
from ea_jax.flux_tiny.training import broken, loop
from ea_jax.flux_tiny.training.dataset import Dataset
from ea_jax.flux_tiny.training.loop import Weights
from ea_jax.flux_tiny.vocabulary import DEFAULT_STYLE
from ea_jax.flux_tiny.world import Scene

log = logging.getLogger(__name__)
IGNORED = -1
PART = 16  # pictures whose convolutions fit a CPU's cache
HEADS = tuple(name for name in LABELS if name != "object")


@dataclasses.dataclass(frozen=True)
class JudgeTraining:
    """What the judge's loss weighs, and what its pictures go through.

    Attributes:
      broken: share of a batch that is broken.
      default_style: share of a batch in the default style, in which most demands are made.
      rebuilt: share of pictures, of those that there are rebuilt, that are so.
      captions: weight of the contrastive loss.
      blur: largest share of a blurred copy (3 x 3 px) in a picture.
      noise, contrast: largest deviations of pixel noise and of contrast, in [0, 1].
    """

    broken: float = 0.25
    default_style: float = 0.5
    rebuilt: float = 0.75
    captions: float = 0.1
    blur: float = 0.7
    noise: float = 0.05
    contrast: float = 0.1


class JudgeBatch(struct.PyTreeNode):
    """Pictures uint8, objects as 0 or 1 [B, 91], labels of the other heads (-1: not asked)."""

    images_BHWC: jax.Array
    objects_BV: jax.Array
    labels: dict[str, jax.Array]
    words_BW: jax.Array


def label(scenes: Sequence[Scene]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Objects [N, 91] float32 and labels {head: int32 [N]} of scenes, all of them valid."""
    objects = np.zeros((len(scenes), len(LABELS["object"])), np.float32)
    labels = {name: np.full(len(scenes), IGNORED, np.int32) for name in HEADS}
    places = {head: {name: i for i, name in enumerate(names)} for head, names in LABELS.items()}
    for row, scene in enumerate(scenes):
        for name in ("relation", "dress"):
            labels[name][row] = 0
        labels["valid"][row] = 1
        for head, name in scene.labels():
            if head == "object":
                objects[row, places[head][name]] = 1
            else:
                labels[head][row] = places[head][name]
    return objects, labels


def batches(
    data: Dataset,
    config: JudgeConfig,
    training: JudgeTraining,
    *,
    rebuilt_PHWC: np.ndarray,
    batch: int,
    seed: int,
) -> Callable[[int], JudgeBatch]:
    """Step number -> batch, whose first rows are broken and show no object.

    Styles but the default one are drawn alike: thin lines are hardest to read, and rarest.

    Args:
      data: renders.
      config, training: of the judge.
      rebuilt_PHWC: the first P renders after the VAE's encoder and decoder. Whatever is painted
        comes out of that decoder: what it loses is no fault of a painting.
      batch: pictures of a step.
      seed: of everything drawn here.
    """
    objects, labels = label(data.scenes)
    count = round(training.broken * batch)
    often = 1 / np.bincount(labels["style"])[labels["style"]]
    often /= often.sum()
    default = labels["style"] == LABELS["style"].index(DEFAULT_STYLE)
    if 0 < default.mean() < 1:
        often *= np.where(
            default,
            training.default_style / often[default].sum(),
            (1 - training.default_style) / often[~default].sum(),
        )

    def at(step: int) -> JudgeBatch:
        rng = np.random.default_rng((seed, step))
        rows = np.sort(rng.choice(len(data.images), batch, p=often))
        rows = rows[rng.permutation(batch)]
        images = np.asarray(data.images[rows])
        taken = (rows < len(rebuilt_PHWC)) & (rng.random(batch) < training.rebuilt)
        images[taken] = rebuilt_PHWC[rows[taken]]
        images[:count] = broken.breaks(images[:count], rng)
        chosen = {name: values[rows] for name, values in labels.items()}
        for name, values in chosen.items():
            values[:count] = 0 if name == "valid" else IGNORED
        present = objects[rows]
        present[:count] = 0
        texts = [data.captions[row][rng.integers(len(data.captions[row]))] for row in rows]
        words = judge.hash_words(texts, config)
        words[:count] = -1
        return JudgeBatch(images, present, chosen, words)  # pyright: ignore

    return at


def judge_loss(
    weights: Weights, batch: JudgeBatch, key: jax.Array, *, training: JudgeTraining
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum of the heads' losses, and the contrastive one; terms are named after them.

    Objects have a multi-label loss that puts each present one above 0 and each absent one below
    (Su et al., arXiv 2208.02955), whatever their number.
    """
    images = jitter(batch.images_BHWC.astype(jnp.float32) / 255, key, training)
    rows = math.gcd(PART, len(images)) if jax.default_backend() == "cpu" else len(images)
    parts = images.reshape(-1, rows, *images.shape[1:])
    found = jax.lax.map(functools.partial(judge.features, weights), parts)
    found = found.reshape(len(images), -1)
    logits = judge.scores(weights, found)
    terms = {"object": _multi_label(logits["object"], batch.objects_BV).mean()}
    for name, wanted in batch.labels.items():
        asked = wanted != IGNORED
        log_p = jax.nn.log_softmax(logits[name])
        chosen = jnp.take_along_axis(log_p, jnp.maximum(wanted, 0)[:, None], axis=1)[:, 0]
        terms[name] = -(chosen * asked).sum() / jnp.maximum(asked.sum(), 1)
    terms["caption"] = _contrast(weights, found, batch.words_BW)
    total = sum(terms.values()) + (training.captions - 1) * terms["caption"]
    return jnp.asarray(total), terms


def jitter(images_BHWC: jax.Array, key: jax.Array, training: JudgeTraining) -> jax.Array:
    """Pictures as a small generator might paint them: softer, grainy, off in contrast."""
    keys = jax.random.split(key, 4)
    per_picture = (len(images_BHWC), 1, 1, 1)
    padded = jnp.pad(images_BHWC, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    soft = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16
    share = jnp.maximum(0, jax.random.uniform(keys[0], per_picture, minval=-0.3)) * training.blur
    gain = 1 + jax.random.uniform(keys[1], per_picture, minval=-1) * training.contrast
    grain = jax.random.uniform(keys[2], per_picture) * training.noise
    out = (1 - share) * images_BHWC + share * soft
    out = 0.5 + gain * (out - 0.5) + grain * jax.random.normal(keys[3], out.shape)
    return jnp.clip(out, 0, 1)


def _multi_label(logits_BV: jax.Array, present_BV: jax.Array) -> jax.Array:
    away = 1e9
    negative = jnp.where(present_BV > 0, -away, logits_BV)
    positive = jnp.where(present_BV > 0, -logits_BV, -away)
    zero = jnp.zeros((len(logits_BV), 1))
    with_zero = lambda x: jax.nn.logsumexp(jnp.concatenate([x, zero], axis=1), axis=1)  # noqa: E731
    return with_zero(negative) + with_zero(positive)


def _contrast(weights: Weights, found: jax.Array, words_BW: jax.Array) -> jax.Array:
    scale = jnp.exp(jnp.minimum(weights["temperature"], 4.0))
    pictures = judge.picture_vectors(weights, found)
    captions = judge.caption_vectors(weights, words_BW)
    asked = words_BW[:, 0] >= 0
    logits = scale * pictures @ captions.T
    logits = jnp.where(asked[:, None] & asked[None], logits, -1e9)
    matches = jnp.diag(jax.nn.log_softmax(logits)) + jnp.diag(jax.nn.log_softmax(logits.T))
    return -0.5 * (matches * asked).sum() / asked.sum()


def train(
    data: Dataset,
    held_out: Dataset,
    rebuilt_PHWC: np.ndarray,
    *,
    config: JudgeConfig,
    training: JudgeTraining,
    schedule: loop.LoopConfig,
    work: Path,
    out: Path,
) -> Judge:
    """Trains the judge, saves it in `<out>/judge`, and logs how often it is right."""
    weights = judge.init_weights(config, jax.random.key(schedule.seed))

    def loss(weights, batch, key):
        return judge_loss(weights, batch, key, training=training)

    state = loop.fit(
        loop.make_step(loss, schedule),
        loop.start(weights, schedule),
        batches(
            data,
            config,
            training,
            rebuilt_PHWC=rebuilt_PHWC,
            batch=schedule.batch,
            seed=schedule.seed,
        ),
        config=schedule,
        folder=work / "judge",
        on_save=lambda state: Judge(state.average, config).save(out / "judge"),
    )
    Judge(state.average, config).save(out / "judge")
    trained = Judge.load(out / "judge")
    for name, rate in check(trained, held_out).items():
        log.info("judge, %s: %.2f %% of %d", name, rate.percent, rate.total)
    return trained


def check(trained: Judge, held_out: Dataset, *, seed: int = 0) -> dict[str, Rate]:
    """How often the judge is right on renders it never saw, and says "none" to broken ones.

    Returns:
      `all` (every label of a scene found, no other object, valid), one rate a head, and
      `none_<kind>` for each kind of broken picture.
    """
    detect = JudgeDetector(trained)
    readings = detect(held_out.images / np.float32(255), [""] * len(held_out.images))
    rates: dict[str, Rate] = {}
    for scene, reading in zip(held_out.scenes, readings, strict=True):
        wanted = scene.labels()
        right = {"valid": reading.valid}
        for head in ("object", "style", "relation", "dress", "background"):
            if head != "background" or any(h == head for h, _ in wanted):
                pick = lambda labels, h=head: {x for x in labels if x[0] == h}  # noqa: E731
                right[head] = pick(reading.seen) == pick(wanted)
        right["all"] = all(right.values())
        if len(scene.things) == 1 and not scene.relation:
            right["one object"] = right["object"]
        for name, hit in right.items():
            rates[name] = rates.get(name, Rate(0, 0)) + Rate(int(hit), 1)
    rng = np.random.default_rng((seed, 5))
    some = np.asarray(held_out.images[:200])
    for kind, make in broken.KINDS.items():
        seen = detect(make(some, rng) / np.float32(255), [""] * len(some))
        rates[f"none_{kind}"] = Rate(sum(not r.valid for r in seen), len(seen))
    return rates
