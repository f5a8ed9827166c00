"""Our LoRA file in diffusers: loads without complaint, paints our picture; so does a merge."""

from __future__ import annotations

import logging
import warnings

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from flax import traverse_util
from peft import LoraConfig

from convert import files
from ea_jax import edits, lora, merge
from ea_jax.edits import Edit
from ea_jax.flux import latents
from ea_jax.flux.pipeline import Pipeline

pytestmark = pytest.mark.parity

PROMPTS = ["a red ball, on grass", "two dogs, neon"]
LENGTH, SIDE, STEPS = 24, 32, 6
EVERYWHERE = "dual_qkv+image_qkv+single+embed"


@pytest.fixture(scope="module")
def ours(dev_folder):
    return Pipeline.load(dev_folder, dtype=jnp.float32)


@pytest.fixture(scope="module")
def base_picture(ours):
    return paint(ours)


@pytest.fixture
def records():
    """What diffusers and peft say, as (level, message)."""
    said: list[tuple[int, str]] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append((record.levelno, record.getMessage()))
    loggers = [diffusers_logging.get_logger("diffusers"), logging.getLogger("peft")]
    for logger in loggers:
        logger.addHandler(handler)
    yield said
    for logger in loggers:
        logger.removeHandler(handler)


def trained_edit(pipeline, scope="dual_qk", ranks=(8,)):
    """An edit strong enough to be seen in the picture; each part of the scope has a rank."""
    weights = pipeline.weights["transformer"]
    fresh = {}
    for part, rank in zip(scope.split("+", len(ranks) - 1), ranks, strict=True):
        fresh |= traverse_util.flatten_dict(
            lora.init(jax.random.key(1), weights, scope=part, rank=rank)
        )
    fresh = traverse_util.unflatten_dict(fresh)
    rng = np.random.default_rng(2)
    tree = jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32), fresh)
    return Edit(tree, base="00ff", concept="ball", preset="paper", strength=1.0)


def paint(pipeline, **options):
    text, _ = pipeline.encode(PROMPTS, max_length=LENGTH)
    z_BhwC = pipeline.sample(text, noise_BhwC=noise(pipeline), steps=STEPS, **options)
    return np.asarray(pipeline.decode(z_BhwC))


def noise(pipeline):
    return latents.noise([3, 4], pipeline.latent_shape(SIDE, SIDE))


def theirs(folder):
    pipeline = diffusers.FluxPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def paint_theirs(pipeline, noise_BhwC):
    return pipeline(
        PROMPTS,
        height=SIDE,
        width=SIDE,
        latents=torch.from_numpy(np.array(latents.pack(noise_BhwC))),
        num_inference_steps=STEPS,
        guidance_scale=3.5,
        max_sequence_length=LENGTH,
        output_type="np",
    ).images


@pytest.mark.parametrize(
    ("scope", "ranks"), [("dual_qk", (8,)), (EVERYWHERE, (8,)), ("embed+dual_qk", (24, 8))]
)
def test_diffusers_paints_our_picture_with_our_file_and_has_nothing_to_say(
    ours, base_picture, dev_folder, tmp_path, records, scope, ranks
):
    edits.save(trained_edit(ours, scope, ranks), tmp_path)
    loaded = edits.load(tmp_path)
    pipeline = theirs(dev_folder)
    records.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline.load_lora_weights(tmp_path)
    loud = [message for level, message in records if level >= logging.WARNING]
    # That there is nothing for the text encoder is true, and meant.
    assert [m for m in loud if "No LoRA keys associated to CLIPTextModel" not in m] == []
    assert [str(w.message) for w in caught] == []

    adapted = [name for name, _ in pipeline.transformer.named_modules() if name.endswith(".lora_A")]
    assert len(adapted) == loaded.check(ours.weights["transformer"])
    picture = paint(ours, lora=loaded.lora())
    assert np.abs(picture - base_picture).max() > 0.05
    np.testing.assert_allclose(picture, paint_theirs(pipeline, noise(ours)), atol=1e-3)

    pipeline.set_adapters(pipeline.get_active_adapters(), 0.5)
    half = paint(ours, lora=loaded.lora(0.5))
    assert np.abs(half - picture).max() > 0.02
    np.testing.assert_allclose(half, paint_theirs(pipeline, noise(ours)), atol=1e-3)


def test_a_file_saved_by_diffusers_with_its_own_alpha_paints_their_picture(
    ours, base_picture, dev_folder, tmp_path
):
    pipeline = theirs(dev_folder)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["add_q_proj", "add_k_proj"], init_lora_weights=False
    )
    torch.manual_seed(0)
    pipeline.transformer.add_adapter(config)
    with torch.no_grad():
        for name, weight in pipeline.transformer.named_parameters():
            if "lora_" in name:
                weight.copy_(0.4 * torch.randn(weight.shape))
    pipeline.transformer.save_lora_adapter(tmp_path)
    edit = edits.load(tmp_path)
    assert edit.check(ours.weights["transformer"]) == 2 * 2  # Q and K of two dual blocks
    picture = paint(ours, lora=edit.lora())
    assert np.abs(picture - base_picture).max() > 0.05
    np.testing.assert_allclose(picture, paint_theirs(pipeline, noise(ours)), atol=1e-3)


def test_a_file_saved_by_diffusers_is_written_back_byte_for_byte(ours, dev_folder, tmp_path):
    """As its trainers save it in bfloat16, alpha equal to the rank."""
    edits.save(trained_edit(ours), tmp_path / "ours")
    pipeline = theirs(dev_folder)
    pipeline.load_lora_weights(tmp_path / "ours")
    layers = {
        name.replace(".default_0", ""): weight.to(torch.bfloat16)
        for name, weight in pipeline.transformer.named_parameters()
        if ".lora_" in name
    }
    diffusers.FluxPipeline.save_lora_weights(tmp_path / "theirs", layers)
    first = tmp_path / "theirs" / edits.LORA_FILE
    second = edits.save(edits.load(first), tmp_path / "again")
    assert first.read_bytes() == second.read_bytes()
    assert set(files.header(first)[0]) == set(files.header(tmp_path / "ours" / edits.LORA_FILE)[0])


def test_diffusers_loads_a_merged_folder_and_paints_the_picture_of_the_lora(
    ours, base_picture, dev_folder, tmp_path
):
    path = edits.save(trained_edit(ours, EVERYWHERE), tmp_path)
    out = tmp_path / "merged"
    merge.main(
        ["--model", str(dev_folder), "--lora", str(path), "--out", str(out), "--strength", "0.7"]
    )
    picture = paint(ours, lora=edits.load(path).lora(0.7))
    assert np.abs(picture - base_picture).max() > 0.05
    pipeline = theirs(out)
    assert not any("lora" in name for name, _ in pipeline.transformer.named_modules())
    np.testing.assert_allclose(picture, paint_theirs(pipeline, noise(ours)), atol=1e-3)
    np.testing.assert_allclose(picture, paint(Pipeline.load(out, dtype=jnp.float32)), atol=1e-3)
