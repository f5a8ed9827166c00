"""Headers are refused as the safetensors library does; files of other kinds are named."""

from __future__ import annotations

import json
import time

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file
from toy_weights import CONFIG, FILE, random_like, template

import convert.bfl
import convert.diffusers
from convert import WeightsError, files

A = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
B = {"dtype": "F32", "shape": [2, 2], "data_offsets": [16, 32]}


def write(path, header, data=32):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


def refused(path):
    with pytest.raises(WeightsError) as caught:
        files.header(path)
    said = str(caught.value)
    assert str(path) in said
    assert "\n" not in said
    return said


def test_a_sound_header_gives_each_tensor_its_place(tmp_path):
    path = write(tmp_path / "x", {"a": A, "b": B, "__metadata__": {"by": "hand"}})
    stored, metadata = files.header(path)
    assert metadata == {"by": "hand"}
    start = path.stat().st_size - 32
    assert [(p.code, p.shape, p.offset - start) for p in stored.values()] == [
        ("F32", (4,), 0),
        ("F32", (2, 2), 16),
    ]


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": {**A, "data_offsets": [-16, 0]}, "b": B}, 32),
        ({"a": A, "b": {**B, "data_offsets": [0, 16]}}, 16),
        ({"a": A, "b": {**B, "data_offsets": [8, 24]}}, 24),
        ({"a": A, "b": {**B, "data_offsets": [24, 40]}}, 40),
        ({"a": {**A, "data_offsets": [16, 32]}}, 32),
        ({"a": A, "b": B}, 40),
        ({"a": {**A, "data_offsets": [0]}}, 16),
        ({"a": {**A, "data_offsets": ["0", "16"]}}, 16),
        ({"a": {**A, "shape": ["4"]}}, 16),
        ({"a": {**A, "shape": [4.0]}}, 16),
        ({"a": {**A, "shape": [-2, -2]}}, 16),
        ({"a": {**A, "shape": None}}, 16),
        ({"a": {**A, "dtype": None}}, 16),
        ({"a": {**A, "dtype": "F33"}}, 16),
        ({"a": {"shape": [4], "data_offsets": [0, 16]}}, 16),
        ({"a": "tensor"}, 0),
        ({"__metadata__": {"strength": 1}, "a": A}, 16),
        ({"__metadata__": ["a"], "a": A}, 16),
        ([], 0),
        (12, 0),
        (None, 0),
        (b'{"a": NaN}', 0),
        (b"[" * 100_000, 0),
        (b'{"a\xff": 1}', 0),
    ],
)
def test_what_the_library_refuses_is_refused(tmp_path, header, data):
    path = write(tmp_path / "x.safetensors", header, data)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.safe_open(str(path), framework="numpy")
    assert "is not a safetensors file (" in refused(path)


def test_a_shape_that_doesn_t_fit_its_bytes_names_the_tensor(tmp_path):
    path = write(tmp_path / "x", {"a": A, "b": {**B, "shape": [3]}})
    assert "tensor 'b' of shape [3] needs 12 bytes, its header gives it 16" in refused(path)


def test_a_name_twice_is_refused_though_the_library_takes_the_last(tmp_path):
    text = json.dumps({"a": A, "x": A}).replace('"x"', '"a"').encode()
    path = write(tmp_path / "x", text, 16)
    with safetensors.safe_open(str(path), framework="numpy") as file:
        assert file.keys() == ["a"]
    assert "duplicate tensor 'a'" in refused(path)


def test_a_header_of_800_tensors_is_read_in_milliseconds(tmp_path):
    header = {
        f"transformer_blocks.{i}.attn.to_q.weight": {**A, "data_offsets": [16 * i, 16 * i + 16]}
        for i in range(800)
    }
    path = write(tmp_path / "x", header, 16 * 800)
    best = min(_seconds(lambda: files.header(path)) for _ in range(5))
    assert best < 0.1  # 8 ms alone; the machine may be busy


def _seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"GGUF" + bytes(100), "is a GGUF file"),
        (b"PK\x03\x04" + b"\x14" * 100, "is a zip file, as torch writes them"),
        (b"\x80\x02}q\x00X\x05abcdefgh", "is a pickle, as torch once wrote them"),
        (b"\n <!doctype html><html>404</html>", "is a web page"),
        (b'{"error": "not found"}', "is JSON, not weights"),
        (b"1234567890" * 9, "is not a safetensors file; download or export it again"),
    ],
)
def test_a_file_of_another_kind_is_named_for_what_it_is(tmp_path, content, said):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert said in refused(path)


@pytest.fixture(scope="module")
def weights():
    return random_like(template())


def save(weights, folder, dtype=np.float32):
    convert.diffusers.save(weights, folder, "transformer", dtype=dtype, config=CONFIG)
    return folder / "transformer" / FILE


def load_error(folder):
    with pytest.raises(WeightsError) as caught:
        convert.diffusers.load(template(), folder, "transformer")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (
            {"transformer.x_embedder.lora_A.weight": np.ones(3, np.float32)},
            "is a LoRA, not a model; give it as the LoRA (--lora)",
        ),
        (
            {"lora_unet_double_blocks_0_txt_attn_qkv.lora_down.weight": np.ones(3, np.float32)},
            "is a LoRA",
        ),
        ({"img_in.weight": np.ones(3, np.float32), "scaled_fp8": np.ones(0)}, "is in fp8"),
        (
            {"transformer_blocks.0.attn.to_q.weight.absmax": np.ones(3, np.float32)},
            "is quantized by bitsandbytes",
        ),
        ({"img_in.weight": np.ones(3, jnp.float8_e4m3fn)}, "give bfloat16, float16 or float32"),
    ],
)
def test_weights_of_another_kind_are_named_in_a_folder_and_as_a_single_file(
    weights, tmp_path, tensors, said
):
    path = save(weights, tmp_path)
    save_file(tensors, path)
    assert said in load_error(tmp_path)
    for read in (convert.bfl.read_config, lambda file: convert.bfl.load(template(), file)):
        with pytest.raises(WeightsError) as caught:
            read(path)
        assert said in str(caught.value)


def test_diffusers_own_file_is_no_single_file_of_black_forest_labs(weights, tmp_path):
    with pytest.raises(WeightsError, match="is in diffusers' layout; give the pipeline folder"):
        convert.bfl.read_config(save(weights, tmp_path))


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_eight_bit_floats_are_read_as_their_numbers(tmp_path, dtype):
    numbers = np.array([0.5, -1.0, 3.0, -0.0], dtype)
    save_file({"a": numbers}, tmp_path / "x")
    stored, _ = files.header(tmp_path / "x")
    np.testing.assert_array_equal(files.read(stored["a"]), numbers)


@pytest.mark.parametrize(
    "dtype",
    [np.float64, np.float32, np.float16, jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2],
)
def test_nan_and_inf_are_found_wherever_they_are(dtype):
    numbers = np.full(200_003, jnp.finfo(dtype).max, dtype)
    numbers[::2] = jnp.finfo(dtype).min
    assert files.is_finite(numbers)
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        for at in (0, 65_535, 65_536, 200_002):
            spoiled = numbers.copy()
            spoiled[at] = value
            assert not files.is_finite(spoiled), (value, at)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_every_bit_pattern_is_judged_as_numpy_does(dtype):
    size = np.dtype(dtype).itemsize
    patterns = np.arange(2 ** (8 * size), dtype=f"u{size}").view(dtype)
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(patterns.astype(np.float32))
    assert files.is_finite(patterns[finite])
    assert not any(files.is_finite(one) for one in np.split(patterns[~finite], (~finite).sum()))


def test_whole_numbers_and_nothing_are_finite():
    assert files.is_finite(np.array([2**31 - 1, -1], np.int32))
    assert files.is_finite(np.zeros((0, 3), np.float32))
    assert files.is_finite(np.zeros((), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_nan_and_inf_in_a_model_name_tensor_and_file(weights, tmp_path, value, dtype):
    kernel = weights["transformer_blocks"]["attn"]["to_k"]["kernel"]
    before = kernel[1, 3, 5]
    kernel[1, 3, 5] = value
    path = save(weights, tmp_path, dtype)
    kernel[1, 3, 5] = before
    said = load_error(tmp_path)
    assert f"tensor 'transformer_blocks.1.attn.to_k.weight' in {path} holds NaN or Inf" in said


INDEX = FILE + ".index.json"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "holds a list"),
        ("{}", "lacks 'weight_map'"),
        ('{"weight_map": []}', "'weight_map' is a list"),
        ('{"weight_map": {"a": 1}}', "weight_map: 'a' is a whole number (1), not text"),
        ('{"weight_map": {}}', "lists no tensors"),
        ('{"weight_map": {"a": "../w.safetensors"}}', "which is no file beside it"),
        ('{"weight_map": {"a": ""}}', "which is no file beside it"),
        ('{"weight_map": {"a": "' + 300 * "w" + '"}}', "which is no file's name (File name too"),
    ],
)
def test_a_damaged_index_is_named(weights, tmp_path, text, said):
    path = save(weights, tmp_path)
    path.unlink()
    index = path.with_name(INDEX)
    index.write_text(text)
    heard = load_error(tmp_path)
    assert said in heard
    assert str(index) in heard


def test_a_folder_without_weights_says_so(weights, tmp_path):
    save(weights, tmp_path).unlink()
    assert "(there: nothing)" in load_error(tmp_path)


def test_files_beside_the_weights_don_t_count(weights, tmp_path):
    path = save(weights, tmp_path)
    others = [
        path.with_name(name)
        for name in ("diffusion_pytorch_model.fp16.safetensors", "old.bin", "x.bin.index.json")
    ]
    for other in others:
        other.write_bytes(b"something")
    convert.diffusers.load(template(), tmp_path, "transformer")
    assert convert.diffusers.weight_files(tmp_path, "transformer") == [path]
    assert convert.diffusers.stray_files(tmp_path, "transformer") == others
