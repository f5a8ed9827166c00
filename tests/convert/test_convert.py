"""Weight files and pytrees: exact both ways, and streamed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from places import ROOT
from safetensors.numpy import load_file, save_file
from toy_weights import CONFIG, FILE, random_like, same, template

import convert.diffusers
import convert.files


@pytest.fixture(scope="module")
def weights():
    return random_like(template())


@pytest.fixture(scope="module")
def saved(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    convert.diffusers.save(weights, folder, "transformer", dtype=np.float32, config=CONFIG)
    return folder


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


def test_only_what_is_wanted_of_a_leaf_is_read(saved, weights, monkeypatch):
    """The middle of every axis, and no row of a file beyond it."""
    middle = lambda _, shape: tuple(slice(n // 4, n - n // 4) for n in shape)  # noqa: E731
    read, of = [], convert.files.read

    def counted(place, rows=None):
        read.append(of(place, rows))
        return read[-1]

    monkeypatch.setattr(convert.files, "read", counted)
    loaded = convert.diffusers.load(template(), saved, "transformer", wanted=middle)
    same(loaded, jax.tree.map(lambda leaf: leaf[middle((), leaf.shape)], weights))
    whole = sum(leaf.size for leaf in jax.tree.leaves(weights))
    assert sum(array.size for array in read) < 0.6 * whole


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
        max_shard_bytes=16_000_000,
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
        cwd=ROOT,
    )
    seen = json.loads(done.stdout)
    assert seen["peak"] >= seen["result"]
    assert seen["peak"] - seen["result"] <= 1.2 * max(sizes)
