"""CLIP's two towers, its files and its pictures against transformers, on random weights."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import random_clip
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from ea_jax.detectors import clip_pixels
from ea_jax.detectors.clip import Clip
from ea_jax.detectors.pixels import Pixels

PROMPTS = ["a cat on grass", "two dogs, kissing", ""]


@pytest.fixture(scope="module")
def model():
    return random_clip.build()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return random_clip.save(model, tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder):
    return Clip.load(folder)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "clip")


def pictures(height: int, width: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((count, height, width, 3)).astype(np.float32)


def theirs(model, clip, images):
    """transformers' logits and picture vectors, from bytes and texts on."""
    bytes_ = [Image.fromarray(np.round(255 * image).astype(np.uint8)) for image in images]
    tokens = clip.tokenizer(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=torch.tensor(
                np.stack(random_clip.processor()(images=bytes_)["pixel_values"])
            ),
        )


@pytest.mark.parity
def test_logits_are_those_of_transformers(model, clip):
    images = pictures(40, 31)
    exact = theirs(model, clip, images)
    assert exact.logits_per_image.std() > 1
    np.testing.assert_allclose(clip.logits(images, PROMPTS), exact.logits_per_image, atol=1e-4)
    np.testing.assert_allclose(clip.picture_vectors(images), exact.image_embeds, atol=1e-5)
    np.testing.assert_allclose(clip.text_vectors(PROMPTS), exact.text_embeds, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("size", [(24, 24), (64, 64), (57, 100), (100, 33), (10, 13)])
def test_pictures_are_prepared_as_transformers_does(clip, size):
    images = pictures(*size, count=2)
    bytes_ = [Image.fromarray(np.round(255 * image).astype(np.uint8)) for image in images]
    exact = np.stack(random_clip.processor()(images=bytes_)["pixel_values"])
    np.testing.assert_allclose(clip.pixels(images), exact.transpose(0, 2, 3, 1), atol=1e-5)


def test_a_picture_s_vector_does_not_depend_on_how_many_there_are(clip):
    images = pictures(24, 24, count=19)
    vectors = clip.picture_vectors(images)
    np.testing.assert_allclose(vectors[:2], clip.picture_vectors(images[:2]), atol=1e-6)
    np.testing.assert_allclose(vectors[17:], clip.picture_vectors(images[17:]), atol=1e-6)
    assert clip.picture_vectors(images[:0]).shape == (0, 16)


def test_files_of_older_versions_are_read_the_same(clip, copy):
    """Buffers among the weights, sizes as plain numbers, a part's keys under an older name."""
    tensors = load_file(copy / "model.safetensors")
    tensors["text_model.embeddings.position_ids"] = np.arange(77)[None]
    tensors["vision_model.embeddings.position_ids"] = np.arange(10)[None]
    save_file(tensors, copy / "model.safetensors")
    (copy / "processor_config.json").unlink(missing_ok=True)
    old = {"size": 24, "crop_size": 24, "resample": 3, "image_mean": clip_pixels._MEAN}
    (copy / "preprocessor_config.json").write_text(json.dumps(old))
    config = json.loads((copy / "config.json").read_text())
    config["text_config_dict"] = config.pop("text_config")
    (copy / "config.json").write_text(json.dumps(config))
    images = pictures(30, 24)
    np.testing.assert_array_equal(
        Clip.load(copy).logits(images, PROMPTS), clip.logits(images, PROMPTS)
    )


def test_another_model_another_version(clip, copy):
    assert Clip.load(copy).version == clip.version
    tensors = load_file(copy / "model.safetensors")
    tensors["visual_projection.weight"][0, 0] += 1
    save_file(tensors, copy / "model.safetensors")
    assert Clip.load(copy).version != clip.version


def test_a_picture_s_long_side_is_cut_to_the_middle():
    image = np.zeros((1, 8, 16, 3))
    image[:, :, 4:12] = 1
    pixels = Pixels(8, 8, mean=(0, 0, 0), std=(1, 1, 1))
    np.testing.assert_array_equal(pixels(image), np.ones((1, 8, 8, 3)))


def config_with(copy, **changes):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda at: (at / "config.json").unlink(), "config.json does not exist; give the folder"),
        (lambda at: config_with(at, model_type="siglip"), "type 'siglip', not 'clip'; give"),
        (lambda at: config_with(at, projection_dim="wide"), "projection_dim='wide' is no width"),
        (lambda at: config_with(at, vision_config=[1]), "vision_config is no object"),
        (
            lambda at: config_with(at, vision_config={"hidden_act": "gelu"}),
            "hidden_act='gelu' is not supported; OpenAI's CLIP has 'quick_gelu'",
        ),
        (lambda at: config_with(at, projection_dim=17), "config.json asks for"),
        (lambda at: (at / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda at: (at / "tokenizer.json").unlink(), "has no tokenizer.json, or vocab.json"),
    ],
)
def test_a_folder_that_holds_no_such_clip_is_one_line(copy, spoil, said):
    spoil(copy)
    with pytest.raises(ValueError, match=said) as caught:
        Clip.load(copy)
    assert "\n" not in str(caught.value)


def test_a_clip_without_a_scale_is_an_error(copy):
    tensors = load_file(copy / "model.safetensors")
    del tensors["logit_scale"]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ValueError, match="missing tensor 'logit_scale'"):
        Clip.load(copy)


def test_what_is_no_folder_is_said_of_a_clip(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file; give the folder of a CLIP"):
        Clip.load(tmp_path / "file")
    with pytest.raises(ValueError, match=r"no folder here; .* openai/clip-vit-large-patch14"):
        Clip.load("flux-tiny")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"size": 24, "crop_size": 32}, "cropped to 32 px, but the encoder sees 24 px"),
        ({"size": 20, "crop_size": 24}, "resized to 20 px and cropped to 24 px"),
        ({"size": 24, "crop_size": {"height": 24, "width": 20}}, "CLIP has squares"),
        ({"size": {"height": 24}, "crop_size": 24}, "lacks 'shortest_edge'"),
        ({"size": "24", "crop_size": 24}, "size='24' is no length in pixels"),
        ({"size": 24, "crop_size": 24, "resample": 2}, "resample=2 is not supported; CLIP has 3"),
        ({"size": 24, "crop_size": 24, "image_std": [1, 1]}, "has to be three numbers"),
        ({"size": 24, "crop_size": 24, "image_std": [1, 0, 1]}, "has to be above 0"),
    ],
)
def test_a_preparation_that_is_not_clip_s_is_one_line(tmp_path, fields, said):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=said):
        clip_pixels.read(tmp_path, 24)


def test_without_a_file_of_its_own_the_usual_preparation_is_taken(tmp_path):
    assert clip_pixels.read(tmp_path, 224) == Pixels(224, 224, clip_pixels._MEAN, clip_pixels._STD)
