"""Weight files and pytrees: exact both ways, streamed, and strict about what a file holds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import convert.bfl
import convert.diffusers
import convert.files
from convert import WeightsError
from ea_jax.flux import transformer

CONFIG = {
    "_class_name": "FluxTransformer2DModel",
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "pooled_projection_dim": 10,
    "guidance_embeds": True,
    "axes_dims_rope": [2, 2, 4],
}
FILE = "diffusion_pytorch_model.safetensors"


def template(config=CONFIG, dtype=jnp.float32):
    return transformer.abstract_weights(transformer.TransformerConfig.from_json(config), dtype)


def random_like(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), tree)


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


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


def test_linear_weights_are_transposed_and_blocks_are_stacked(saved, weights):
    tensors = load_file(saved / "transformer" / FILE)
    kernel = weights["transformer_blocks"]["attn"]["add_q_proj"]["kernel"]
    assert kernel.shape == (2, 16, 16)
    for block in range(2):
        np.testing.assert_array_equal(
            tensors[f"transformer_blocks.{block}.attn.add_q_proj.weight"], kernel[block].T
        )
    up = weights["transformer_blocks"]["ff_context"]["up"]["kernel"]
    np.testing.assert_array_equal(
        tensors["transformer_blocks.1.ff_context.net.0.proj.weight"], up[1].T
    )


def test_what_is_saved_loads_as_the_same_bits(saved, weights):
    same(convert.diffusers.load(template(), saved, "transformer"), weights)


def test_shards_with_an_index_load_as_the_same_bits(weights, tmp_path):
    convert.diffusers.save(
        weights, tmp_path, "transformer", dtype=np.float32, config=CONFIG, max_shard_bytes=20_000
    )
    shards = sorted((tmp_path / "transformer").glob("*.safetensors"))
    assert len(shards) > 3
    assert shards[0].name == f"diffusion_pytorch_model-00001-of-{len(shards):05d}.safetensors"
    same(convert.diffusers.load(template(), tmp_path, "transformer"), weights)


@pytest.mark.parametrize("stored", [jnp.bfloat16, np.float16])
def test_half_precision_files_load_exactly_into_float32(weights, tmp_path, stored):
    convert.diffusers.save(weights, tmp_path, "transformer", dtype=stored, config=CONFIG)
    loaded = convert.diffusers.load(template(), tmp_path, "transformer")
    same(loaded, jax.tree.map(lambda leaf: leaf.astype(stored).astype(np.float32), weights))


def test_a_dtype_on_load_rounds_once(saved, weights):
    loaded = convert.diffusers.load(template(), saved, "transformer", dtype=jnp.bfloat16)
    same(loaded, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights))


def test_each_leaf_is_placed_where_put_says(saved, weights):
    mesh = jax.make_mesh((2,), ("tensor",), devices=jax.devices()[:2])
    split = jax.NamedSharding(mesh, jax.P(None, None, "tensor"))
    seen = []

    def put(path, array):
        seen.append(path)
        stacked_kernel = path[-1] == "kernel" and array.ndim == 3
        return jax.device_put(array, split if stacked_kernel else jax.NamedSharding(mesh, jax.P()))

    loaded = convert.diffusers.load(template(), saved, "transformer", put=put)
    assert ("transformer_blocks", "attn", "to_q", "kernel") in seen
    assert loaded["single_transformer_blocks"]["proj_out"]["kernel"].sharding == split
    same(loaded, weights)


def test_the_file_is_the_safetensors_library_s_byte_for_byte(tmp_path):
    rng = np.random.default_rng(0)
    dtypes = [np.float64, np.float32, np.float16, jnp.bfloat16, np.int64, np.int32, np.uint8]
    arrays = {
        f"{'zyxwvut'[index]}.weight": rng.integers(0, 9, (3, index + 1)).astype(dtype)
        for index, dtype in enumerate(dtypes)
    }
    save_file(arrays, tmp_path / "theirs", {"format": "pt"})
    convert.files.write_arrays(tmp_path / "ours", arrays, {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    stored, metadata = convert.files.header(tmp_path / "ours")
    assert metadata == {"format": "pt"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(convert.files.read(stored[name]), array)
        np.testing.assert_array_equal(convert.files.read(stored[name], (1, 3)), array[1:3])


def test_loading_holds_little_more_than_the_result(tmp_path):
    config = CONFIG | {
        "num_layers": 3,
        "num_single_layers": 8,
        "attention_head_dim": 32,
        "num_attention_heads": 12,
        "axes_dims_rope": [8, 12, 12],
    }
    tree = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), template(config))
    convert.diffusers.save(
        tree,
        tmp_path,
        "transformer",
        dtype=np.float32,
        config=config,
        max_shard_bytes=32_000_000,
    )
    sizes = [path.stat().st_size for path in (tmp_path / "transformer").glob("*.safetensors")]
    assert len(sizes) > 3
    script = textwrap.dedent(
        """
        import json, pathlib, re, sys
        import jax
        import convert.diffusers
        from ea_jax.flux import transformer

        def kib(field):
            status = pathlib.Path("/proc/self/status").read_text()
            return int(re.search(rf"{field}:\\s+(\\d+)", status)[1])

        config = transformer.TransformerConfig.from_json(
            convert.diffusers.read_config(sys.argv[1], "transformer")
        )
        template = transformer.abstract_weights(config)
        jax.block_until_ready(jax.device_put(1.0))
        before = kib("VmRSS")
        weights = convert.diffusers.load(template, sys.argv[1], "transformer")
        result = sum(leaf.nbytes for leaf in jax.tree.leaves(weights))
        print(json.dumps({"peak": 1024 * (kib("VmHWM") - before), "result": result}))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    seen = json.loads(done.stdout)
    assert seen["peak"] >= seen["result"]
    assert seen["peak"] - seen["result"] <= 1.2 * max(sizes)


def test_a_missing_tensor_is_named(folder):
    spoil(folder, lambda tensors: tensors.pop("transformer_blocks.1.attn.to_k.bias"))
    said = message(folder)
    assert "missing tensor 'transformer_blocks.1.attn.to_k.bias' in" in said
    assert "download is incomplete" in said


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
    assert f"{path} is not a safetensors file" in message(folder)


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
        ("[]", "holds no JSON object"),
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


# Black Forest Labs' layout, written here by hand from their model's code, not from our tables.
def bfl_tensors(weights):
    def linear(tree, block=None):
        kernel, bias = tree["kernel"], tree["bias"]
        if block is not None:
            kernel, bias = kernel[block], bias[block]
        return np.ascontiguousarray(kernel.T), bias

    out = {}

    def put(name, *trees, block=None):
        pairs = [linear(tree, block) for tree in trees]
        out[f"{name}.weight"] = np.concatenate([pair[0] for pair in pairs])
        out[f"{name}.bias"] = np.concatenate([pair[1] for pair in pairs])

    put("img_in", weights["x_embedder"])
    put("txt_in", weights["context_embedder"])
    embedders = weights["time_text_embed"]
    for theirs, ours in [
        ("time_in", "timestep_embedder"),
        ("guidance_in", "guidance_embedder"),
        ("vector_in", "text_embedder"),
    ]:
        put(f"{theirs}.in_layer", embedders[ours]["linear_1"])
        put(f"{theirs}.out_layer", embedders[ours]["linear_2"])
    dual, single = weights["transformer_blocks"], weights["single_transformer_blocks"]
    for i in range(dual["attn"]["norm_q"]["scale"].shape[0]):
        attn, name = dual["attn"], f"double_blocks.{i}"
        put(f"{name}.img_mod.lin", dual["norm1"]["linear"], block=i)
        put(f"{name}.txt_mod.lin", dual["norm1_context"]["linear"], block=i)
        put(f"{name}.img_attn.qkv", attn["to_q"], attn["to_k"], attn["to_v"], block=i)
        put(
            f"{name}.txt_attn.qkv",
            attn["add_q_proj"],
            attn["add_k_proj"],
            attn["add_v_proj"],
            block=i,
        )
        put(f"{name}.img_attn.proj", attn["to_out"], block=i)
        put(f"{name}.txt_attn.proj", attn["to_add_out"], block=i)
        out[f"{name}.img_attn.norm.query_norm.scale"] = attn["norm_q"]["scale"][i]
        out[f"{name}.img_attn.norm.key_norm.scale"] = attn["norm_k"]["scale"][i]
        out[f"{name}.txt_attn.norm.query_norm.scale"] = attn["norm_added_q"]["scale"][i]
        out[f"{name}.txt_attn.norm.key_norm.scale"] = attn["norm_added_k"]["scale"][i]
        put(f"{name}.img_mlp.0", dual["ff"]["up"], block=i)
        put(f"{name}.img_mlp.2", dual["ff"]["down"], block=i)
        put(f"{name}.txt_mlp.0", dual["ff_context"]["up"], block=i)
        put(f"{name}.txt_mlp.2", dual["ff_context"]["down"], block=i)
    for i in range(single["attn"]["norm_q"]["scale"].shape[0]):
        attn, name = single["attn"], f"single_blocks.{i}"
        put(f"{name}.modulation.lin", single["norm"]["linear"], block=i)
        put(
            f"{name}.linear1",
            attn["to_q"],
            attn["to_k"],
            attn["to_v"],
            single["proj_mlp"],
            block=i,
        )
        put(f"{name}.linear2", single["proj_out"], block=i)
        out[f"{name}.norm.query_norm.scale"] = attn["norm_q"]["scale"][i]
        out[f"{name}.norm.key_norm.scale"] = attn["norm_k"]["scale"][i]
    put("final_layer.linear", weights["proj_out"])
    weight, bias = linear(weights["norm_out"]["linear"])
    half = len(bias) // 2  # ours (scale, shift), theirs (shift, scale)
    out["final_layer.adaLN_modulation.1.weight"] = np.concatenate([weight[half:], weight[:half]])
    out["final_layer.adaLN_modulation.1.bias"] = np.concatenate([bias[half:], bias[:half]])
    return out


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_black_forest_labs_file_loads_as_the_same_bits(weights, tmp_path, prefix):
    tensors = {prefix + name: array for name, array in bfl_tensors(weights).items()}
    save_file(tensors, tmp_path / "flux1.safetensors")
    same(convert.bfl.load(template(), tmp_path / "flux1.safetensors"), weights)


def test_a_fused_tensor_of_wrong_height_is_named(weights, tmp_path):
    tensors = bfl_tensors(weights)
    tensors["double_blocks.1.img_attn.qkv.weight"] = np.ones((40, 16), np.float32)
    save_file(tensors, tmp_path / "flux1.safetensors")
    with pytest.raises(WeightsError, match=r"'double_blocks\.1\.img_attn\.qkv\.weight' has shape"):
        convert.bfl.load(template(), tmp_path / "flux1.safetensors")


def test_the_config_is_read_off_black_forest_labs_file(tmp_path):
    config = CONFIG | {
        "attention_head_dim": 128,
        "num_attention_heads": 1,
        "axes_dims_rope": [16, 56, 56],
        "guidance_embeds": False,
    }
    tensors = bfl_tensors(random_like(template(config | {"guidance_embeds": True})))
    without = {name: array for name, array in tensors.items() if "guidance" not in name}
    save_file(without, tmp_path / "flux1.safetensors")
    found = convert.bfl.read_config(tmp_path / "flux1.safetensors")
    assert found == config | {"out_channels": config["in_channels"]}
