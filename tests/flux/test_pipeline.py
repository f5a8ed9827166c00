"""A pipeline's parts come and go, sampling compiles once, and misuse is named."""

from __future__ import annotations

import gc
import itertools
import json
import re
import shutil
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import WeightsError
from ea_jax import lora, merge
from ea_jax.edits import Edit
from ea_jax.flux import sampler, tokens
from ea_jax.flux.pipeline import Pipeline
from ea_jax.runtime.fingerprint import fingerprint
from ea_jax.runtime.metrics import NonFiniteError

SIDE = {"height": 32, "width": 32, "steps": 2}


@pytest.fixture(scope="module")
def pipeline(dev_folder):
    return Pipeline.load(dev_folder, dtype=jnp.float32)


@pytest.fixture(scope="module")
def text(pipeline):
    return pipeline.encode(["a cat", "a dog"], max_length=16)[0]


def test_three_lines_paint_a_picture(dev_folder):
    pipeline = Pipeline.load(dev_folder)
    images = pipeline.paint("a cat", seeds=[0, 1], max_length=16, **SIDE)
    assert images.shape == (2, 32, 32, 3)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images[0] != images[1]).any()


def test_parts_are_loaded_used_and_dropped_one_by_one(dev_folder, pipeline, text):
    lean = Pipeline.load(dev_folder, parts=["text_encoder", "text_encoder_2"])
    assert set(lean.weights) == {"text_encoder", "text_encoder_2"}
    again, _ = lean.encode(["a cat", "a dog"], max_length=16)
    lean.drop("text_encoder", "text_encoder_2")
    lean.load_part("transformer")
    assert set(lean.weights) == {"transformer"}
    np.testing.assert_array_equal(
        lean.sample(again, seeds=[0, 1], **SIDE), pipeline.sample(text, seeds=[0, 1], **SIDE)
    )


def test_a_part_that_is_not_loaded_is_named(dev_folder, text):
    empty = Pipeline.load(dev_folder, parts=[])
    for use, part in [
        (lambda: empty.encode(["a cat"]), "text_encoder"),
        (lambda: empty.sample(text, seeds=[0, 1]), "transformer"),
        (lambda: empty.decode(jnp.zeros((1, 4, 4, 16))), "vae"),
    ]:
        with pytest.raises(ValueError, match=f"{part} is not loaded; call load_part"):
            use()
    with pytest.raises(ValueError, match="part 'unet' is unknown; choose from"):
        empty.load_part("unet")


def test_put_sees_every_leaf_with_its_part(dev_folder):
    seen = []

    def put(path, array):
        seen.append(path)
        return jax.device_put(array)

    Pipeline.load(dev_folder, parts=["transformer", "vae"], put=put)
    assert ("transformer", "transformer_blocks", "attn", "to_q", "kernel") in seen
    assert ("vae", "decoder", "conv_in", "bias") in seen


def test_a_picture_does_not_depend_on_its_batch(pipeline, text):
    both = pipeline.sample(text, seeds=[5, 6], **SIDE)
    second = jax.tree.map(lambda x: x[1:], text)
    alone = pipeline.sample(second, seeds=[6], **SIDE)
    np.testing.assert_allclose(both[1], alone[0], atol=1e-5)


def test_a_long_list_of_prompts_is_encoded_as_each_prompt_alone(pipeline):
    prompts = [f"{number} cats" for number in range(37)]
    many, seen = pipeline.encode(prompts, max_length=16)
    assert many.t5_BTD.shape[:2] == seen.ids_BT.shape == (37, 16)
    last, _ = pipeline.encode(prompts[-1:], max_length=16)
    np.testing.assert_allclose(many.t5_BTD[-1:], last.t5_BTD, atol=1e-5)
    np.testing.assert_allclose(many.pooled_BD[-1:], last.pooled_BD, atol=1e-5)


def test_sampling_compiles_once_per_shape_whatever_guidance_seed_and_weights(pipeline, text):
    pipeline.sample(text, seeds=[0, 1], **SIDE)
    before = sampler._program()._cache_size()
    other = jax.tree.map(lambda x: 2 * x, pipeline.weights["transformer"])
    pipeline.sample(text, seeds=[8, 9], guidance=2, **SIDE)
    pipeline.sample(text, seeds=[0, 1], weights=other, **SIDE)
    assert sampler._program()._cache_size() == before


def test_the_scan_is_the_loop_of_euler_steps(pipeline, text):
    from ea_jax.flux import latents, transformer

    sigmas = pipeline.schedule.sigmas(2, 16)
    x_BSC = latents.pack(latents.noise([0, 1], (8, 8, 16)))
    for start, end in itertools.pairwise(sigmas):
        velocity, _ = transformer.velocity(
            pipeline.weights["transformer"],
            pipeline.transformer_config,
            x_BSC,
            jnp.full(2, start),
            text,
            grid=(4, 4),
            guidance_B=jnp.full(2, 3.5),
        )
        x_BSC = x_BSC + (end - start) * velocity
    sampled = pipeline.sample(text, seeds=[0, 1], **SIDE)
    np.testing.assert_allclose(latents.pack(sampled), x_BSC, atol=1e-5)


def test_schnell_takes_no_guidance_and_four_steps(schnell_folder):
    schnell = Pipeline.load(schnell_folder)
    text, seen = schnell.encode(["a cat"])
    assert seen.ids_BT.shape == (1, 256)
    default = schnell.sample(text, seeds=[0], height=32, width=32)
    four = schnell.sample(text, seeds=[0], height=32, width=32, steps=4)
    np.testing.assert_array_equal(default, four)
    with pytest.raises(ValueError, match=r"guidance=3.5, but this model has no guidance"):
        schnell.sample(text, seeds=[0], guidance=3.5, height=32, width=32)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": [0, 1], "height": 60}, "height=60 is not a multiple of 8"),
        ({"seeds": [0, 1, 2]}, "2 prompts for 3 pictures"),
        ({}, "give either seeds or noise_BhwC"),
        ({"seeds": [0, 1], "noise_BhwC": jnp.zeros((2, 8, 8, 16))}, "give either seeds"),
        ({"seeds": [0, -1]}, "seed -1 is out of range"),
        ({"seeds": [0, 1], "attention": "flash9"}, "flash9"),
        ({"seeds": [0, 1], "steps": -1}, "steps=-1"),
        ({"noise_BhwC": jnp.zeros((2, 7, 8, 16))}, "noise of 7 x 8 latents"),
    ],
)
def test_arguments_that_do_not_fit_are_named(pipeline, text, options, said):
    with pytest.raises(ValueError, match=said):
        pipeline.sample(text, **{"height": 32, "width": 32, "steps": 2, **options})


@pytest.mark.parametrize("guidance", [-1.0, float("nan"), float("inf"), 1e39])
def test_a_guidance_out_of_range_is_named(pipeline, text, guidance):
    with pytest.raises(ValueError, match=re.escape(f"guidance={guidance} is out of")):
        pipeline.sample(text, seeds=[0], guidance=guidance)


def test_a_picture_with_nan_is_an_error_never_black(pipeline, text):
    adapters = lora.init(jax.random.key(0), pipeline.template("transformer"), scope="embed", rank=1)
    broken = jax.tree.map(lambda leaf: leaf + jnp.nan, adapters)
    with pytest.raises(NonFiniteError, match="1 of 1 pictures hold NaN or Inf; lower the LoRA's"):
        pipeline.paint(["a cat"], seeds=[0], steps=1, height=16, width=16, lora=broken)


def test_pictures_of_a_wrong_size_are_not_encoded(pipeline):
    with pytest.raises(ValueError, match="width=30 is not a multiple of 8"):
        pipeline.encode_images(jnp.zeros((1, 32, 30, 3)))


def test_the_pipeline_of_another_model_is_named(dev_folder, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(dev_folder, folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline"}))
    with pytest.raises(WeightsError, match="describes a StableDiffusion3Pipeline, not a Flux"):
        Pipeline.load(folder)


def test_a_folder_without_index_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"holds no model_index\.json; give the folder"):
        Pipeline.load(tmp_path)


def test_a_single_file_transformer_stands_in_for_the_folder_s(dev_folder, tmp_path, pipeline, text):
    from bfl_layout import bfl_tensors
    from safetensors.numpy import save_file

    weights = jax.tree.map(np.asarray, pipeline.weights["transformer"])
    save_file(bfl_tensors(weights), tmp_path / "flux1.safetensors")
    other = Pipeline.load(
        dev_folder, parts=["transformer"], transformer_file=tmp_path / "flux1.safetensors"
    )
    np.testing.assert_array_equal(
        other.sample(text, seeds=[0, 1], **SIDE), pipeline.sample(text, seeds=[0, 1], **SIDE)
    )
    # In a folder without weights of its own it is found, beside a VAE and a LoRA of that layout.
    folder = tmp_path / "dev"
    shutil.copytree(dev_folder, folder, ignore=shutil.ignore_patterns("diffusion_pytorch_model*"))
    shutil.copytree(dev_folder / "vae", folder / "vae", dirs_exist_ok=True)
    shutil.copy(tmp_path / "flux1.safetensors", folder)
    save_file({"decoder.conv_in.bias": np.zeros(2)}, folder / "ae.safetensors")
    save_file({"lora_unet_img_in.lora_down.weight": np.zeros((2, 2))}, folder / "lora.safetensors")
    for hidden in ("._flux1.safetensors", "transformer/._model.safetensors"):
        (folder / hidden).touch()
    found = Pipeline.load(folder, parts=["transformer"])
    found.check_files()
    assert found.fingerprint("transformer") == other.fingerprint("transformer")
    edit = Edit(lora.init(jax.random.key(0), weights, scope="dual_qk", rank=2))
    with pytest.raises(ValueError, match=r"in one file, flux1\.safetensors, and merge reads"):
        merge.merge_folder(folder, edit, tmp_path / "merged")
    shutil.copy(folder / "flux1.safetensors", folder / "flux2.safetensors")
    with pytest.raises(WeightsError, match=r"flux1\.safetensors, flux2\.safetensors; leave one"):
        Pipeline.load(folder)


def test_a_folder_with_flux_dev_s_names_and_tokenizers_loads_from_its_shards(flux_dev_like_folder):
    assert (flux_dev_like_folder / "text_encoder_2" / "model.safetensors.index.json").exists()
    dev = Pipeline.load(flux_dev_like_folder, parts=["transformer", "text_encoder_2"])
    assert dev.transformer_config.num_layers == 19
    assert dev.transformer_config.num_single_layers == 38
    assert dev.latent_shape(1024, 512) == (128, 64, 16)
    seen = tokens.tokenize(dev.t5_tokenizer, ["a nude woman with beautiful hair"], 256)
    assert dev.t5_tokenizer.convert_ids_to_tokens(seen.ids_BT[0, 2:4]) == ["▁nu", "de"]
    assert seen.offsets[0][2:4] == ((2, 4), (4, 6))


def test_a_parts_fingerprint_is_of_its_weights_as_they_were_loaded(dev_folder):
    own = Pipeline.load(dev_folder, parts=["vae"])
    found = own.fingerprint("vae")
    assert found == fingerprint(own.weights["vae"])
    # Laid out otherwise, it is the same model, and nothing keeps what was loaded.
    kept = weakref.ref(jax.tree.leaves(own.weights["vae"])[0])
    own.weights["vae"] = {}
    gc.collect()
    assert kept() is None
    assert own.fingerprint("vae") == found
    own.drop("vae")
    assert own.fingerprint("vae") == found
