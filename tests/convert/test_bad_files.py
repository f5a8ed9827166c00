"""Files that don't hold what they should: one line that names the tensor and the way out."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from toy_weights import CONFIG, FILE, random_like, template

import convert.diffusers
import convert.files
from convert import WeightsError


@pytest.fixture(scope="module")
def weights():
    return random_like(template())


@pytest.fixture(scope="module")
def saved(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    convert.diffusers.save(weights, folder, "transformer", dtype=np.float32, config=CONFIG)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def spoil(folder, change):
    """Rewrites the folder's only file after `change` has edited its tensors."""
    path = folder / "transformer" / FILE
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def message(folder, config=CONFIG, part="transformer"):
    with pytest.raises(WeightsError) as caught:
        convert.diffusers.load(template(config), folder, part)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_tensor_is_named(folder):
    spoil(folder, lambda tensors: tensors.pop("transformer_blocks.1.attn.to_k.bias"))
    said = message(folder)
    assert "missing tensor 'transformer_blocks.1.attn.to_k.bias' in" in said
    assert "check that both belong together" in said
    assert "download" not in said  # the file is whole


def test_an_unexpected_tensor_is_named(folder):
    spoil(folder, lambda tensors: tensors.update({"transformer_blocks.1.foo": np.ones(3)}))
    assert "unexpected tensor 'transformer_blocks.1.foo' in" in message(folder)


def test_more_blocks_than_the_config_says_are_unexpected(folder):
    config = CONFIG | {"num_single_layers": 2}
    said = message(folder, config)
    assert "unexpected tensor 'single_transformer_blocks.2.attn.norm_k.weight' (and" in said


def test_a_wrong_shape_is_named_with_both_shapes(folder):
    spoil(folder, lambda tensors: tensors.update({"x_embedder.weight": np.ones((16, 8))}))
    said = message(folder)
    assert "'x_embedder.weight' has shape [16, 8]" in said
    assert "asks for [16, 16]" in said


def test_integers_are_no_weights(folder):
    spoil(folder, lambda tensors: tensors.update({"x_embedder.bias": np.ones(16, np.int64)}))
    assert "'x_embedder.bias' is stored as I64" in message(folder)


@pytest.mark.parametrize(("keep", "said"), [(-10, "is cut off: "), (100, "inside its header")])
def test_a_cut_file_is_named(folder, keep, said):
    path = folder / "transformer" / FILE
    path.write_bytes(path.read_bytes()[:keep])
    heard = message(folder)
    assert str(path) in heard
    assert said in heard
    assert "download it again" in heard


def test_a_file_of_another_kind_is_named(folder):
    path = folder / "transformer" / FILE
    path.write_bytes(b"<html>404: not found, and some more text</html>")
    assert f"{path} is a web page, not weights; download it again" in message(folder)


def test_a_name_that_stands_twice_in_a_header_is_named(folder):
    path = folder / "transformer" / FILE
    data = path.read_bytes()
    path.write_bytes(data.replace(b"x_embedder.bias", b"proj_out.weight"))
    assert "duplicate tensor 'proj_out.weight'" in message(folder)


def sharded(weights, folder):
    convert.diffusers.save(
        weights, folder, "transformer", dtype=np.float32, config=CONFIG, max_shard_bytes=40_000
    )
    return sorted((folder / "transformer").glob("*.safetensors"))


def test_a_tensor_in_two_shards_is_named(weights, tmp_path):
    first, second, *_ = sharded(weights, tmp_path)
    tensors = load_file(second)
    name = next(iter(load_file(first)))
    save_file(tensors | {name: np.ones(2)}, second)
    said = message(tmp_path)
    assert f"duplicate tensor {name!r}" in said
    assert first.name in said
    assert second.name in said


def test_a_shard_that_is_absent_is_named(weights, tmp_path):
    shards = sharded(weights, tmp_path)
    shards[1].unlink()
    assert f"{shards[1]} does not exist" in message(tmp_path)


def test_a_tensor_that_only_the_index_knows_is_named(weights, tmp_path):
    shards = sharded(weights, tmp_path)
    tensors = load_file(shards[0])
    name = next(iter(tensors))
    tensors.pop(name)
    save_file(tensors, shards[0])
    assert f"missing tensor {name!r}: " in message(tmp_path)


def test_a_file_beside_shards_is_ambiguous(weights, tmp_path):
    shards = sharded(weights, tmp_path)
    shutil.copy(shards[0], tmp_path / "transformer" / FILE)
    assert "remove the one that is out of date" in message(tmp_path)


def test_a_folder_without_safetensors_says_what_is_there(folder):
    path = folder / "transformer" / FILE
    path.rename(path.with_name("diffusion_pytorch_model.bin"))
    said = message(folder)
    assert "there: diffusion_pytorch_model.bin" in said
    assert "safe_serialization=True" in said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            '{"_class_name": "UNet2DConditionModel"}',
            "a UNet2DConditionModel, not a FluxTransformer",
        ),
        ('{"architectures": ["T5EncoderModel"]}', "a T5EncoderModel, not a FluxTransformer"),
        ("{}", "describes a None"),
        ("[]", "holds a list ([]), not an object"),
        ("{", "is not JSON"),
    ],
)
def test_the_config_of_another_model_is_named(folder, config, said):
    (folder / "transformer" / "config.json").write_text(config)
    assert said in message(folder)


def test_a_folder_without_config_is_no_pipeline(tmp_path):
    said = message(tmp_path)
    assert f"{tmp_path / 'transformer' / 'config.json'} does not exist" in said
    assert "folder of a FLUX.1 pipeline" in said


def test_an_unknown_part_lists_the_known(folder):
    with pytest.raises(ValueError, match="part 'unet' is unknown; choose from"):
        convert.diffusers.load(template(), folder, "unet")


def test_saving_over_weights_is_refused_and_changes_nothing(folder, weights):
    before = (folder / "transformer" / FILE).read_bytes()
    with pytest.raises(FileExistsError, match="holds weights already"):
        convert.diffusers.save(weights, folder, "transformer", dtype=np.float16, config=CONFIG)
    assert (folder / "transformer" / FILE).read_bytes() == before


def test_a_part_is_replaced_as_a_whole_or_not_at_all(folder, weights, monkeypatch):
    options = {"dtype": np.float16, "config": CONFIG}
    convert.diffusers.replace(weights, folder, "transformer", **options)
    new = (folder / "transformer" / FILE).read_bytes()
    half = convert.diffusers.load(template(), folder, "transformer")
    assert jax.tree.all(
        jax.tree.map(lambda a, b: np.array_equal(np.asarray(a, np.float16), b), weights, half)
    )

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert.files, "write", full)
    with pytest.raises(OSError, match="No space left"):
        convert.diffusers.replace(weights, folder, "transformer", **options)
    assert (folder / "transformer" / FILE).read_bytes() == new


def test_a_failed_write_leaves_the_old_file_and_no_half_of_a_new_one(tmp_path):
    path = tmp_path / "w.safetensors"
    convert.files.write_arrays(path, {"a": np.ones(3)}, {})
    before = path.read_bytes()

    def full(name):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device; .* was not written"):
        convert.files.write(path, {"a": np.ones(3)}, full, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_two_that_write_one_file_don_t_write_into_each_other_s_draft(tmp_path):
    path = tmp_path / "w.safetensors"

    def fetch(name):
        convert.files.write_arrays(path, {"a": np.full(30, 7.0)}, {})
        return np.ones(3)

    convert.files.write(path, {"a": np.ones(3)}, fetch, {})
    np.testing.assert_array_equal(load_file(path)["a"], np.ones(3))
    assert list(tmp_path.iterdir()) == [path]


def test_a_weights_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").touch()
    convert.files.write_arrays(tmp_path / "w.safetensors", {"a": np.ones(3)}, {})
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
