"""Paints prompts: `python -m ea_jax.sample --prompt "a photo of a cat" --out cat.png`."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from convert.disk import draft
from ea_jax import edits
from ea_jax.flux.pipeline import Pipeline
from ea_jax.runtime.command_line import parse_flags
from ea_jax.runtime.program import one_line_errors, start_logging

FLAGS = flags.FLAGS
log = logging.getLogger(__name__)


def paint() -> Path:
    """Paints every prompt with every seed, a row a prompt, into one PNG."""
    out = Path(FLAGS.out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out={out} is no PNG; give a name that ends in .png")
    pipeline = Pipeline.load(FLAGS.model)
    edit = edits.load(FLAGS.lora) if FLAGS.lora else None
    options = {}
    if edit is not None and edit.deltas:
        weights = pipeline.weights["transformer"]
        options["weights"] = edit.apply(weights, FLAGS.strength)
    elif edit is not None:
        edit.check(pipeline.weights["transformer"])
        options["lora"] = edit.lora(FLAGS.strength)
    seeds = [int(seed) for seed in FLAGS.seed]
    rows = []
    for prompt in FLAGS.prompt:
        text, _ = pipeline.encode([prompt], max_length=FLAGS.text_length)
        z_BhwC = pipeline.sample(
            text,
            seeds=seeds,
            steps=FLAGS.steps,
            guidance=FLAGS.guidance,
            height=FLAGS.size,
            width=FLAGS.size,
            **options,
        )
        rows.append(np.concatenate(list(np.asarray(pipeline.decode(z_BhwC))), axis=1))
    picture = np.clip(np.concatenate(rows) * 255 + 0.5, 0, 255).astype(np.uint8)
    out.parent.mkdir(parents=True, exist_ok=True)
    with draft(out) as unfinished:
        Image.fromarray(picture).save(unfinished)
    return out


def main(_: list[str]) -> None:
    start_logging()
    with one_line_errors():
        log.info("%s", paint())


if __name__ == "__main__":
    flags.DEFINE_multi_string("prompt", None, "what to paint; may be given several times")
    flags.DEFINE_string("model", "flux-tiny", "flux-tiny, a diffusers folder, or a hub id")
    flags.DEFINE_string("lora", None, "a run's folder, or a LoRA file")
    flags.DEFINE_float("strength", None, "of the LoRA; its recommended one by default")
    flags.DEFINE_list("seed", ["0"], "one picture a seed: 0,1,2")
    flags.DEFINE_integer("steps", None, "Euler steps; 28 for dev, 4 for schnell by default")
    flags.DEFINE_float("guidance", None, "distilled guidance; 3.5 for dev by default")
    flags.DEFINE_integer("size", None, "side in pixels; the model's own by default")
    flags.DEFINE_integer("text_length", None, "T5 tokens; 512 for dev, 256 for schnell by default")
    flags.DEFINE_string("out", "sample.png", "PNG to write")
    flags.mark_flag_as_required("prompt")
    app.run(main, flags_parser=parse_flags)
