"""LoRA files of other programs: what is uneven fits, what isn't a plain LoRA is named."""

from __future__ import annotations

import functools
import json
import logging

import jax
import ml_dtypes
import numpy as np
import pytest
import toy_lora
import toy_weights
from toy_lora import pair, written

from convert import WeightsError
from ea_jax import edits, lora, merge
from ea_jax.edits import Edit
from ea_jax.flux.stack import unrolled
from ea_jax.lora import AdapterError

WEIGHTS = toy_weights.random_like(toy_weights.template())
DUAL, SINGLE = "transformer_blocks.{}.attn.add_q_proj", "single_transformer_blocks.{}.attn.to_q"
Q = DUAL.format(0)


def product(name):
    a, b = pair(name).values()
    return (b @ a).T


def module(tree, name):
    for part in name.split("."):
        tree = tree[part]
    return tree


UNEVEN = {
    "the first block": (pair(SINGLE.format(0)), 1),
    "the last block": (pair(SINGLE.format(2)), 1),
    "a block in the middle": (pair(SINGLE.format(1)), 1),
    "two of three, and of another layer the first": (
        pair(SINGLE.format(0)) | pair(SINGLE.format(2)) | pair(Q),
        3,
    ),
    "ranks of their own": (
        pair(SINGLE.format(0), rank=2) | pair(SINGLE.format(1), rank=7) | pair(SINGLE.format(2)),
        3,
    ),
    "a change of a kernel": ({f"{SINGLE.format(0)}.diff": np.ones((16, 16), np.float32)}, 1),
}


@pytest.mark.parametrize("case", UNEVEN)
def test_a_file_with_uneven_blocks_changes_exactly_the_layers_it_holds(tmp_path, case):
    arrays, layers = UNEVEN[case]
    edit = edits.load(written(tmp_path, arrays))
    for weights in (WEIGHTS, unrolled(WEIGHTS)):
        assert edit.check(weights) == layers
    merged = lora.add(WEIGHTS, edit.changes())
    for kind in ("transformer_blocks.attn.add_q_proj", "single_transformer_blocks.attn.to_q"):
        before, after = module(WEIGHTS, kind)["kernel"], module(merged, kind)["kernel"]
        stack, rest = kind.split(".", 1)
        for index in range(len(before)):
            name = f"transformer.{stack}.{index}.{rest}"
            added = np.zeros((16, 16), np.float32)
            if f"{name}.lora_A.weight" in arrays:
                added = (arrays[f"{name}.lora_B.weight"] @ arrays[f"{name}.lora_A.weight"]).T
            if f"{name.removeprefix('transformer.')}.diff" in arrays:
                added = np.ones((16, 16), np.float32)
            np.testing.assert_allclose(after[index] - before[index], added, atol=1e-5)


@pytest.mark.parametrize("case", [case for case in UNEVEN if case != "a change of a kernel"])
def test_a_model_runs_with_uneven_blocks_as_with_the_merge(tmp_path, case):
    edit = edits.load(written(tmp_path, UNEVEN[case][0]))
    merged = toy_lora.forward(lora.add(WEIGHTS, edit.changes(0.1)), None)
    base = toy_lora.forward(WEIGHTS, None)
    for weights in (WEIGHTS, unrolled(WEIGHTS)):
        ran = toy_lora.forward(weights, edit.lora(0.1))
        np.testing.assert_allclose(ran, merged, atol=1e-4 * float(np.abs(base).max()))
        assert np.abs(ran - base).max() > 1e-3


def test_uneven_edits_combine_and_are_written_and_read_back(tmp_path):
    first = edits.load(
        written(tmp_path, pair(SINGLE.format(0)) | pair("context_embedder", 2, 12, width_out=16))
    )
    third = edits.load(written(tmp_path, pair(SINGLE.format(2), rank=3)))
    kernel = {"single_transformer_blocks": {"attn": {"to_q": {"kernel": np.ones((2, 16, 16))}}}}
    both = edits.summed([first, third, Edit(deltas=kernel)])
    # Blocks 0, 1 and 2 of one layer, and the other; block 0 is changed twice.
    assert both.check(WEIGHTS) == 3 + 1
    added = both.changes()["single_transformer_blocks", "attn", "to_q"]
    np.testing.assert_allclose(added[0], product(SINGLE.format(0)) + 1, atol=1e-5)
    np.testing.assert_allclose(added[1], np.ones((16, 16)), atol=1e-5)
    again = edits.summed([first, third])
    edits.save(again, tmp_path / "saved")
    assert edits.load(tmp_path / "saved").check(WEIGHTS) == 3


def test_a_merged_folder_has_the_change_of_uneven_blocks(tmp_path):
    edit = edits.load(written(tmp_path, pair(SINGLE.format(1))))
    changes = merge._changes(edit, None)
    np.testing.assert_allclose(
        changes[f"{SINGLE.format(1)}.weight"](), product(SINGLE.format(1)).T, atol=1e-5
    )


def test_a_block_beyond_the_model_is_named(tmp_path):
    edit = edits.load(written(tmp_path, pair(DUAL.format(2))))
    message = r"3 blocks of transformer_blocks\.attn\.add_q_proj, the model 2: it lacks block 2"
    for use in (
        edit.check,
        functools.partial(edits.bind, edit),
        lambda weights: lora.merge(weights, edit.lora()),
    ):
        with pytest.raises(AdapterError, match=message):
            use(WEIGHTS)
    delta = edits.load(written(tmp_path, {f"{DUAL.format(2)}.diff": np.ones((16, 16), "f4")}))
    with pytest.raises(AdapterError, match=message):
        delta.check(WEIGHTS)
    with pytest.raises(WeightsError, match=r"no layer of a FLUX.*blocks\.1000000\.attn"):
        edits.load(written(tmp_path, pair(DUAL.format(1_000_000))))


BARE = f"transformer.{Q}"
VECTOR = np.ones(16, np.float32)
OTHERS = {
    "lora_magnitude_vector": "the magnitudes of a DoRA",
    "lora_magnitude_vector.default.weight": "the magnitudes of a DoRA",
    "dora_scale": "the magnitudes of a DoRA",
    "lokr_w1": "the factors of a LoKr",
    "lokr_w2_a": "the factors of a LoKr",
    "hada_w1_a": "the factors of a LoHa",
    "oft_R.weight": "the rotations of an OFT",
    "oft_blocks": "the rotations of an OFT",
    "ia3_l": "the factors of an IA3",
    "lora_mid.weight": "the Tucker factors of a LoCon",
    "lora_B.bias": "biases",
    "lora_up.bias": "biases",
    "lora.up.bias": "biases",
    "diff_b": "biases",
    "weight": "whole weights of a model",
    "scale_weight": "scales of fp8 numbers",
    "weight_scale": "scales of fp8 numbers",
}


@pytest.mark.parametrize("end", OTHERS)
@pytest.mark.parametrize(
    "layer", [BARE, "lora_unet_double_blocks_0_txt_attn_qkv", "double_blocks.0.txt_attn.qkv"]
)
def test_what_is_no_plain_lora_is_named_with_the_way_out(tmp_path, layer, end):
    key = f"{layer}.{end}"
    with pytest.raises(WeightsError) as told:
        edits.load(written(tmp_path, pair("context_embedder") | {key: VECTOR}))
    said = str(told.value)
    assert f"1 of 3 tensors in {tmp_path / 'other.safetensors'} are {OTHERS[end]}" in said
    assert f"the first {key!r}" in said
    assert "; " in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "key",
    [
        "transformer.transformer_blocks.0.attn.norm_q.diff",
        "transformer.transformer_blocks.0.attn.norm_added_k.weight",
        "diffusion_model.single_blocks.0.norm.query_norm.scale",
        "lora_unet_double_blocks_1_img_attn_norm_key_norm.w_norm",
    ],
)
def test_changes_of_norm_layers_are_named(tmp_path, key):
    with pytest.raises(WeightsError, match="are changes of norm layers, the first") as told:
        edits.load(written(tmp_path, pair("context_embedder") | {key: VECTOR}))
    assert key in str(told.value)


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
        "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
        "diffusion_model.double_blocks.0.img_attn_qkv.lora_A.weight",
        "lora_unet_single_blocks_0_modulation_linear.lora_down.weight",
        "transformer.blocks.0.attn.to_q.lokr_w1",
    ],
    ids=["sdxl", "wan", "hunyuan", "hunyuan by kohya", "another model's lokr"],
)
def test_a_lora_for_another_model_is_called_that(tmp_path, key):
    with pytest.raises(WeightsError, match="belong to no layer of a FLUX transformer") as told:
        edits.load(written(tmp_path, pair("context_embedder") | {key: np.ones((4, 16), "f4")}))
    assert key in str(told.value)


def test_text_encoders_are_left_out_with_one_line_in_the_log(tmp_path, caplog):
    te = pair("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", prefix="")
    te |= pair("lora_te2_encoder_block_0", prefix="")
    with caplog.at_level(logging.WARNING):
        edit = edits.load(written(tmp_path, pair(Q) | te))
    assert edit.check(WEIGHTS) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"left out 4 tensors for text encoders in {tmp_path / 'other.safetensors'}"
    ]
    settings = {"text_encoder.r": 4, "text_encoder.lora_alpha": 8}
    path = written(tmp_path, pair(Q) | te, {"lora_adapter_metadata": json.dumps(settings)})
    added = edits.load(path).changes()["transformer_blocks", "attn", "add_q_proj"]
    np.testing.assert_allclose(added[0], product(Q), atol=1e-5)
    with pytest.raises(WeightsError, match=r"4 of 4 tensors in .* are for text encoders, which"):
        edits.load(written(tmp_path, te))


def spoiled(end, value):
    arrays = pair(Q) | {f"{BARE}.alpha": np.array(4.0, np.float32)}
    arrays[f"{BARE}.{end}"] = arrays[f"{BARE}.{end}"].copy()
    arrays[f"{BARE}.{end}"].flat[0] = value
    return arrays


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("end", ["lora_A.weight", "lora_B.weight", "alpha"])
def test_nan_and_inf_name_file_and_tensor(tmp_path, end, value):
    path = written(tmp_path, spoiled(end, value))
    with pytest.raises(WeightsError, match=f"{BARE}.{end} in {path} holds NaN or Inf"):
        edits.load(path)


def test_nan_in_a_delta_and_numbers_too_large_for_float32_name_file_and_tensor(tmp_path):
    with pytest.raises(WeightsError, match=rf"{Q}\.diff in .* holds NaN or Inf"):
        edits.load(written(tmp_path, {f"{Q}.diff": np.full((16, 16), np.nan, np.float32)}))
    wide = {key: array.astype(np.float64) * 1e300 for key, array in pair(Q).items()}
    with pytest.raises(WeightsError, match=r"lora_A\.weight in .* holds NaN or Inf in float32"):
        edits.load(written(tmp_path, wide))
    scaled = spoiled("alpha", 3e38)
    scaled[f"{BARE}.lora_B.weight"] *= 100
    with pytest.raises(WeightsError, match=r"lora_B\.weight in .* holds NaN or Inf in float32"):
        edits.load(written(tmp_path, scaled))


@pytest.mark.parametrize("strength", [np.nan, np.inf, -np.inf, np.float32(np.nan)])
def test_a_strength_of_nan_or_inf_is_an_error_wherever_it_is_given(strength):
    edit = Edit(toy_lora.trained())
    for use in (
        edit.lora,
        edit.scaled,
        Edit(deltas={"context_embedder": {"kernel": np.zeros((12, 16))}}).scaled,
        edit.changes,
        lambda s: edits.bind(edit, WEIGHTS, s),
        lambda s: edits.summed([edit], [s]),
        lambda s: lora.scaled(edit.adapters, s),
        lambda s: lora.scaled(edit.adapters, jax.numpy.asarray(s)),
        lambda s: lora.merge(WEIGHTS, edit.adapters, s),
    ):
        with pytest.raises(ValueError, match=r"strength .* is NaN or Inf in float32"):
            use(strength)
    # A traced one has no value yet.
    jax.jit(lora.scaled)(edit.adapters, strength)


@pytest.mark.parametrize("shape", [(0, 16), (4, 0), (4, 16, 1, 1), (4,)])
def test_a_tensor_of_no_rank_or_no_matrix_is_named(tmp_path, shape):
    arrays = pair(Q) | {f"{BARE}.lora_A.weight": np.ones(shape, np.float32)}
    with pytest.raises(WeightsError, match=rf"{BARE}\.lora_A\.weight in .* has to be a matrix"):
        edits.load(written(tmp_path, arrays))


def test_eight_bit_floats_are_read(tmp_path):
    for dtype, code in ((ml_dtypes.float8_e4m3fn, "F8_E4M3"), (ml_dtypes.float8_e5m2, "F8_E5M2")):
        narrow = {key: array.astype(dtype) for key, array in pair(Q).items()}
        path = tmp_path / f"{code}.safetensors"
        head, data = {}, b""
        for key, array in narrow.items():
            ends = [len(data), len(data) + array.nbytes]
            head[key] = {"dtype": code, "shape": list(array.shape), "data_offsets": ends}
            data += array.tobytes()
        text = json.dumps(head).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
        adapter = module(edits.load(path).adapters, "transformer_blocks.attn.add_q_proj")
        np.testing.assert_array_equal(
            adapter["A"][0].T, narrow[f"{BARE}.lora_A.weight"].astype(np.float32)
        )


def test_a_fused_matrix_that_cannot_be_cut_is_named(tmp_path):
    for name, rows, parts in (
        ("double_blocks.0.txt_attn.qkv", 40, "add_q_proj, add_k_proj, add_v_proj of width 16"),
        ("single_blocks.0.linear1", 48, "to_q, to_k, to_v, proj_mlp of width 16"),
        ("final_layer.adaLN_modulation.1", 31, "two halves"),
    ):
        arrays = pair(name, prefix="", width_out=rows)
        message = rf"{name}\.lora_B\.weight in .* has {rows} rows, which can't be cut into {parts}"
        with pytest.raises(WeightsError, match=message):
            edits.load(written(tmp_path, arrays))


def test_a_layer_spelled_twice_is_named_with_both_names(tmp_path):
    arrays = pair(Q) | pair("double_blocks.0.txt_attn.qkv", prefix="", width_out=48)
    with pytest.raises(WeightsError, match=r"duplicate tensor 'transformer\.tr.* as 'double_"):
        edits.load(written(tmp_path, arrays))


@pytest.mark.parametrize("key", ["scaled_fp8", "diffusion_model.scaled_fp8"])
def test_the_marker_of_scaled_fp8_is_named(tmp_path, key):
    with pytest.raises(WeightsError, match=r"are scales of fp8 numbers.*; export it in bfloat16"):
        edits.load(written(tmp_path, pair("context_embedder") | {key: np.zeros(2, np.float32)}))


@pytest.mark.parametrize(("one", "other"), [(".a", ".b"), (".a", ""), ("", ".b")])
def test_two_halves_of_different_adapters_are_no_pair(tmp_path, one, other):
    ends = {"lora_A.weight": f"lora_A{one}.weight", "lora_B.weight": f"lora_B{other}.weight"}
    arrays = {
        key.replace(end, new): array
        for key, array in pair("context_embedder").items()
        for end, new in ends.items()
        if key.endswith(end)
    }
    names = f"lora_A of the adapter '{one[1:]}' and lora_B of the adapter '{other[1:]}'"
    with pytest.raises(WeightsError, match=f"context_embedder has {names} in .*; export one"):
        edits.load(written(tmp_path, arrays))
