"""Paints prompts: `ea-jax sample --prompt "a photo of a cat" --out cat.png`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from convert.disk import draft, require_writable
from ea_jax import edits, merged
from ea_jax.arguments import Parser, each, number, readable, text
from ea_jax.concepts import minors
from ea_jax.concepts.encoding import ENCODERS, Encoded
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.sharded import attention_on, on_mesh
from ea_jax.flux.tokens import MAX_T5_LENGTH
from ea_jax.painter import Painter, Sampling
from ea_jax.runtime.fingerprint import base_hash
from ea_jax.runtime.mesh import make_mesh
from ea_jax.runtime.pixels import as_bytes
from ea_jax.runtime.program import one_line_errors, start_program

MAX_STEPS = 1000  # noise levels that FLUX was trained at
MAX_SIDE = 2**14  # a million packed tokens
log = logging.getLogger(__name__)


def paint(given: argparse.Namespace) -> Path:
    """Paints every prompt with every seed, a row a prompt, into one PNG.

    Args:
      given: the command's arguments.
    Returns:
      The file.
    Raises:
      ValueError: an argument that doesn't fit the model, a LoRA that doesn't, or a minor beside
        nudity; told before any weights are loaded. Or a picture that holds NaN or Inf.
      OSError: the file can't be written.
    """
    out = Path(given.out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out={out} is no PNG; give a name that ends in .png")
    require_writable(out)
    edit = None if given.lora is None else edits.load(given.lora)
    minors.require_adults([*given.prompt, (edit and edit.concept) or ""])
    pipeline = Pipeline(given.model)
    if edit is not None:
        edit.check(pipeline.template("transformer"))
        merged.require_unmerged(edit, pipeline.folder)
    if given.guidance is not None:
        pipeline.check_guidance(given.guidance)
    if given.size is not None:
        pipeline.latent_shape(given.size, given.size)
    painter = _painter(given, make_mesh({"tensor": shares(pipeline)}))
    if edit is not None:
        weights = painter.pipeline.weights["transformer"]
        merged.warn_of_another_base(edit, pipeline.folder, lambda: base_hash(weights))
    rows = [
        np.concatenate(
            list(painter.paint(prompt, given.seed, edit=edit, strength=given.strength)), axis=1
        )
        for prompt in given.prompt
    ]
    picture = as_bytes(np.concatenate(rows))
    out.parent.mkdir(parents=True, exist_ok=True)
    with draft(out) as unfinished:
        Image.fromarray(picture).save(unfinished)
    return out


def shares(pipeline: Pipeline) -> int:
    """How many of this machine's devices a model is split over: as many as divide its heads."""
    heads = pipeline.transformer_config.num_attention_heads
    return max(n for n in range(1, jax.local_device_count() + 1) if heads % n == 0)


def _painter(given: argparse.Namespace, mesh: Mesh) -> Painter:
    """With the prompts encoded, and the text encoders dropped before the transformer is loaded."""
    pipeline = on_mesh(mesh, given.model, dtype=given.dtype)
    pipeline.check_files()
    for part in ENCODERS:
        pipeline.load_part(part)
    prompts = tuple(dict.fromkeys(given.prompt))
    text, _ = pipeline.encode(prompts, max_length=given.text_length)
    texts = Encoded(prompts, np.asarray(text.t5_BTD), np.asarray(text.pooled_BD))
    pipeline.drop(*ENCODERS)
    pipeline.load_part("transformer")
    attention = attention_on(
        mesh, pipeline, side=given.size or pipeline.side, text_length=texts.t5_UTD.shape[1]
    )
    sampling = Sampling(given.steps, given.guidance, given.size, len(given.seed), attention)
    return Painter(pipeline, mesh=mesh, sampling=sampling, texts=texts)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command's arguments; wrong ones end the program."""
    parser = Parser("sample", "Paints prompts, with or without a LoRA, into one PNG.")
    parser.add(
        "--prompt",
        rule=readable,
        often=True,
        required=True,
        help="what to paint; may be given several times",
    )
    parser.add("--model", rule=text, default="flux-tiny", help="flux-tiny, a folder, or a hub id")
    parser.add("--lora", rule=text, help="a run's folder, or a LoRA file")
    parser.add("--strength", rule=number(), help="of the LoRA; its recommended one by default")
    parser.add(
        "--seed",
        rule=each(number(int, low=0, high=2**32 - 1)),
        default=[0],
        help="one picture a seed: 0,1,2",
    )
    parser.add(
        "--steps",
        rule=number(int, low=1, high=MAX_STEPS),
        help="Euler steps; 28 for dev, 4 for schnell by default",
    )
    parser.add("--guidance", rule=number(low=0), help="distilled guidance; 3.5 for dev by default")
    parser.add(
        "--size",
        rule=number(int, low=1, high=MAX_SIDE),
        help="side in pixels; the model's own by default",
    )
    parser.add(
        "--text_length",
        rule=number(int, low=2, high=MAX_T5_LENGTH),
        help="T5 tokens; 512 for dev, 256 for schnell by default",
    )
    parser.add(
        "--dtype",
        rule=text,
        choices=("float32", "bfloat16"),
        help="of the weights; bfloat16 by default, on a CPU float32",
    )
    parser.add("--out", rule=text, default="sample.png", help="PNG to write")
    given = parser.parse_args(arguments)
    parser.require(given, "strength", needs="lora")
    return given


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    given = parse(arguments)
    start_program()
    with one_line_errors("a smaller --size, or fewer seeds at a time"):
        log.info("%s", paint(given))


if __name__ == "__main__":
    main(sys.argv[1:])
