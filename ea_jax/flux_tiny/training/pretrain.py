"""Rebuilds flux-tiny, stage by stage; each goes on where it was cut off.

    pip install 'ea-jax[world]'
    python -m ea_jax.flux_tiny.training.pretrain --out flux-tiny --work pretraining

`--stages flux,distil` runs some of them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

import convert.diffusers
from ea_jax.flux import t5, tokens, transformer
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux_tiny import vocabulary, world
from ea_jax.flux_tiny.judge import JudgeConfig
from ea_jax.flux_tiny.training import (
    dataset,
    distil,
    flux_batches,
    loop,
    text_stage,
    train_flux,
    train_judge,
    vae_stage,
)
from ea_jax.runtime.fingerprint import fingerprint
from ea_jax.runtime.program import one_line_errors, start_program

log = logging.getLogger(__name__)

# On two cores a step with two devices takes 0.8 of the time that it takes with one.
CPU_DEVICES = 2
SCENES, TOGETHER, HELD_OUT = 120_000, 80_000, 4_000
WORLD_SEED, HELD_OUT_SEED, TOGETHER_SEED = 1, 2, 3

FLUX = transformer.TransformerConfig(
    in_channels=64,
    num_layers=4,
    num_single_layers=8,
    attention_head_dim=32,
    num_attention_heads=4,
    joint_attention_dim=128,
    pooled_projection_dim=128,
    guidance_embeds=True,
    axes_dims_rope=(8, 12, 12),
)
GRID = (8, 8)
ENCODERS = ("text_encoder", "text_encoder_2")
TEACHER = "pretrained"  # folder of the transformer before distillation, in the work folder
FLUX_TRAINING = flux_batches.FluxTraining()
FLUX_LOOP = loop.LoopConfig(
    steps=23_329,
    batch=64,
    learning_rate=2e-3,
    warmup=200,
    weight_decay=1e-2,
    ema=0.998,
    log_every=20,
    save_every=250,
    seed=21,
)
DISTIL_LOOP = dataclasses.replace(
    FLUX_LOOP, steps=300, learning_rate=5e-4, warmup=20, ema=0.98, save_every=100, seed=22
)
# Last steps, in which the learning rate falls: blobs become objects there.
FLUX_FALLING, DISTIL_FALLING = 1400, 200
# What pretraining begins with is not the student's.
DISTIL_TRAINING = dataclasses.replace(
    FLUX_TRAINING,
    text_first=0,
    phases=(dataclasses.replace(FLUX_TRAINING.phases[-1], begins=0, larger=1),),
)
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}
MODEL_INDEX = {
    "_class_name": "FluxPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


JUDGE = JudgeConfig()
JUDGE_TRAINING = train_judge.JudgeTraining()
JUDGE_LOOP = loop.LoopConfig(
    steps=9200,
    batch=256,
    learning_rate=3e-3,
    warmup=200,
    weight_decay=1e-2,
    ema=0.995,
    log_every=50,
    save_every=200,
    seed=31,
)


def train_flux_stage(data: dataset.Dataset, work: Path, out: Path, first: int = 0) -> None:
    """Trains the transformer on the packed latents and writes its averaged weights.

    They go to `work` too: there they stay what distillation starts from.

    Without a checkpoint it starts from the transformer that `out` holds, if it holds one.

    Args:
      data, work, out: scenes, folder of checkpoints, folder of the pipeline.
      first: the step at which `out`'s transformer stood when its optimiser started anew; the same
        again where such a run goes on, since the learning rate is counted from there.
    """
    write_index(out)
    weights = train_flux.init_weights(FLUX, jax.random.key(0))
    fresh = not (out / "transformer" / "config.json").exists()
    if not fresh:
        log.info("starts from the transformer in %s", out)
        weights["flux"] = convert.diffusers.load(
            transformer.abstract_weights(FLUX), out, "transformer"
        )
    else:
        save_flux(weights["flux"], out)
    pipeline = Pipeline.load(out, parts=ENCODERS, dtype="float32")
    batches = _flux_batches(pipeline, data, work, out, FLUX_LOOP, FLUX_TRAINING)
    if fresh:
        ids_BT = np.concatenate([batches(step).t5_BT for step in range(4)])
        features = t5.encode(pipeline.weights["text_encoder_2"], pipeline.t5_config, ids_BT)
        weights["flux"]["context_embedder"] = train_flux.whiten_context(
            weights["flux"]["context_embedder"],
            np.asarray(features)[ids_BT > pipeline.t5_tokenizer.eos_token_id],
        )
        save_flux(weights["flux"], out)
    loss = train_flux.make_loss(
        FLUX, pipeline.t5_config, pipeline.clip_config, FLUX_TRAINING, grid=GRID
    )
    left = dataclasses.replace(FLUX_LOOP, steps=FLUX_LOOP.steps - first)
    transform, mesh = train_flux.optimiser(left, falling=FLUX_FALLING), loop.data_mesh()
    state = loop.fit(
        loop.make_step(loss, FLUX_LOOP, transform, _in_parts(flux_batches.split), mesh),
        loop.start(weights, FLUX_LOOP, transform, mesh),
        batches,
        config=FLUX_LOOP,
        folder=work / "flux",
        on_save=lambda state: save_flux(state.average["flux"], work / TEACHER),
        first=first,
    )
    save_flux(state.average["flux"], out)


def _in_parts(split: Any) -> Any:
    """Parts of a batch fit a CPU's cache; other devices take it whole."""
    return split if jax.default_backend() == "cpu" else None


def _flux_batches(
    pipeline: Pipeline,
    data: dataset.Dataset,
    work: Path,
    out: Path,
    config: loop.LoopConfig,
    training: flux_batches.FluxTraining,
) -> Callable[[int], flux_batches.FluxBatch]:
    length = training.text_length
    ids = flux_batches.tokenize(
        data.captions, pipeline.t5_tokenizer, pipeline.clip_tokenizer, length
    )
    empty = flux_batches.tokenize(
        [[""]], pipeline.t5_tokenizer, pipeline.clip_tokenizer, tokens.MAX_T5_LENGTH
    )
    encoders = flux_batches.Encoders(
        t5=pipeline.weights["text_encoder_2"],
        clip=pipeline.weights["text_encoder"],
        empty_t5_T=jax.numpy.asarray(empty[0][0, 0].astype(np.int32)),
        empty_clip_T=jax.numpy.asarray(empty[1][0, 0, :length].astype(np.int32)),
    )
    return flux_batches.batches(
        vae_stage.packed_latents(data, work, out),
        *ids,
        encoders,
        training,
        groups=_groups(data.scenes),
        batch=config.batch,
        seed=config.seed,
    )


def _groups(scenes: Sequence[world.Scene]) -> dict[str, np.ndarray]:
    """Rows that the shares of a `flux_batches.Phase` are drawn from."""
    usual = [scene.style == vocabulary.DEFAULT_STYLE for scene in scenes]
    count = [0 if scene.relation else len(scene.things) for scene in scenes]
    related = [bool(scene.relation) for scene in scenes]
    pick = lambda n: np.flatnonzero(np.logical_and(usual, np.equal(count, n)))  # noqa: E731
    return {
        "one_object": pick(1),
        "two_objects": pick(2),
        "relation": np.flatnonzero(np.logical_and(usual, related)),
        "default_style": np.flatnonzero(usual),
    }


def distil_stage(data: dataset.Dataset, work: Path, out: Path) -> None:
    """Moves classifier-free guidance into the guidance embedding; the student goes to `out`."""
    pipeline = Pipeline.load(out, parts=ENCODERS, dtype="float32")
    teacher = convert.diffusers.load(
        transformer.abstract_weights(FLUX), work / TEACHER, "transformer"
    )
    batches = _flux_batches(pipeline, data, work, out, DISTIL_LOOP, DISTIL_TRAINING)
    loss = distil.make_loss(
        FLUX, pipeline.t5_config, pipeline.clip_config, DISTIL_TRAINING, grid=GRID
    )
    transform, mesh = train_flux.optimiser(DISTIL_LOOP, falling=DISTIL_FALLING), loop.data_mesh()
    state = loop.fit(
        loop.make_step(loss, DISTIL_LOOP, transform, _in_parts(distil.split), mesh),
        loop.start(jax.tree.map(jax.numpy.copy, teacher), DISTIL_LOOP, transform, mesh),
        lambda step: distil.DistilBatch(batches(step), teacher),
        config=DISTIL_LOOP,
        # Another teacher is another run.
        folder=work / f"distil-{fingerprint(teacher)}",
    )
    save_flux(state.average, out)


def save_flux(weights: loop.Weights, out: Path) -> None:
    """Writes the transformer in half precision, as diffusers loads it."""
    config = {"_class_name": "FluxTransformer2DModel", "patch_size": 1, **dataclasses.asdict(FLUX)}
    out.mkdir(parents=True, exist_ok=True)
    convert.diffusers.replace(weights, out, "transformer", dtype=np.float16, config=config)


def write_index(out: Path) -> None:
    """Writes model_index.json and the scheduler's config, FLUX.1-dev's."""
    convert.diffusers.write_json(out / "model_index.json", MODEL_INDEX)
    (out / "scheduler").mkdir(exist_ok=True)
    convert.diffusers.write_json(out / "scheduler" / "scheduler_config.json", SCHEDULER)


def main(_: list[str]) -> None:
    start_program()
    jax.config.update("jax_num_cpu_devices", CPU_DEVICES)
    out, work = Path(FLAGS.out), Path(FLAGS.work)
    with one_line_errors():
        scenes = dataset.build(work / "world", SCENES, seed=WORLD_SEED)
        together = dataset.build(
            work / "together", TOGETHER, seed=TOGETHER_SEED, draw=world.sample_together
        )
        # What there is too little of comes first: the judge sees the first ones rebuilt.
        data = dataset.joined(together, scenes)
        held_out = dataset.unseen(
            dataset.build(work / "world_eval", HELD_OUT, seed=HELD_OUT_SEED), data
        )
        if "vae" in FLAGS.stages:
            vae_stage.train(scenes, held_out, work, out)
        if "text" in FLAGS.stages:
            text_stage.run(scenes, held_out, work / "text", out)
        if "sharpen" in FLAGS.stages:
            vae_stage.sharpen(data, held_out, work, out)
        if "flux" in FLAGS.stages:
            train_flux_stage(data, work, out, FLAGS.flux_step)
        if "distil" in FLAGS.stages:
            distil_stage(data, work, out)
        if "judge" in FLAGS.stages:
            train_judge.train(
                data,
                held_out,
                vae_stage.rebuilt_scenes(data, work, out),
                config=JUDGE,
                training=JUDGE_TRAINING,
                schedule=JUDGE_LOOP,
                work=work,
                out=out,
            )


FLAGS = flags.FLAGS

if __name__ == "__main__":
    flags.DEFINE_string("out", "flux-tiny", "folder of the finished pipeline")
    flags.DEFINE_string("work", "pretraining", "folder of data sets and checkpoints")
    flags.DEFINE_integer(
        "flux_step",
        0,
        "step at which the transformer in `out` stands, if its checkpoints are lost; "
        "give the same again to go on from the new ones",
    )
    flags.DEFINE_list(
        "stages", ["vae", "sharpen", "text", "flux", "distil", "judge"], "what to train"
    )
    app.run(main)
