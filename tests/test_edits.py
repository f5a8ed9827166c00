"""Edits and their files: what is written is what is read, and a broken file is named."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_lora
import toy_weights

from convert import WeightsError, files
from ea_jax import edits, lora
from ea_jax.edits import Edit
from ea_jax.flux.transformer import TransformerConfig, abstract_weights
from ea_jax.lora import AdapterError

WEIGHTS = toy_weights.random_like(toy_weights.template())
FACTS = {"base": "00ff", "concept": "soccer ball", "preset": "paper", "strength": 0.8}
Q = "transformer_blocks.0.attn.add_q_proj"


def rounded(tree):
    return jax.tree.map(lambda x: np.asarray(x, jnp.bfloat16).astype(np.float32), tree)


def deltas(seed=0):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(2, 16, 16)).astype(np.float32)
    embedder = rng.normal(size=(12, 16)).astype(np.float32)
    return {
        "transformer_blocks": {"attn": {"add_q_proj": {"kernel": kernel}}},
        "context_embedder": {"kernel": embedder},
    }


def written(folder, arrays, metadata=None):
    """A LoRA file of someone else's."""
    path = folder / "other.safetensors"
    files.write_arrays(path, arrays, metadata or {"format": "pt"})
    return path


def pair(name, rank=4, width=16, prefix="transformer.", seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"{prefix}{name}.lora_A.weight": rng.normal(size=(rank, width)).astype(np.float32),
        f"{prefix}{name}.lora_B.weight": rng.normal(size=(width, rank)).astype(np.float32),
    }


def test_the_file_of_flux_dev_has_76_tensors_and_3735552_bytes(tmp_path):
    weights = abstract_weights(TransformerConfig())
    shapes = jax.eval_shape(lambda: lora.init(jax.random.key(0), weights, scope="dual_qk", rank=8))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    path = edits.save(Edit(zeros, **FACTS), tmp_path)
    stored, metadata = files.header(path)
    assert path.name == "pytorch_lora_weights.safetensors"
    assert sorted(stored) == sorted(
        f"transformer.transformer_blocks.{block}.attn.add_{which}_proj.lora_{side}.weight"
        for block in range(19)
        for which in "qk"
        for side in "AB"
    )
    assert len(stored) == 76
    assert sum(int(np.prod(place.shape)) * 2 for place in stored.values()) == 3_735_552
    assert {place.code for place in stored.values()} == {"BF16"}
    assert {place.shape for place in stored.values()} == {(8, 3072), (3072, 8)}
    assert 3_735_552 < path.stat().st_size < 3_750_000
    assert metadata == {
        "format": "pt",
        "base_hash": "00ff",
        "concept": "soccer ball",
        "preset": "paper",
        "recommended_strength": "0.8",
    }


@pytest.mark.parametrize("scope", ["dual_qk", toy_lora.EVERYWHERE])
def test_reading_what_was_written_gives_it_rounded_to_bfloat16(tmp_path, scope):
    edit = Edit(toy_lora.trained(scope), **FACTS)
    edits.save(edit, tmp_path)
    back = edits.load(tmp_path)
    toy_weights.same(back.adapters, rounded(edit.adapters))
    assert {name: getattr(back, name) for name in FACTS} == FACTS
    assert back.check(WEIGHTS) == lora.count(edit.adapters)


def test_writing_what_was_read_gives_the_same_bytes(tmp_path):
    first = edits.save(Edit(toy_lora.trained(), **FACTS, more={"note": "ä"}), tmp_path / "one")
    second = edits.save(edits.load(first), tmp_path / "two")
    assert files.header(first)[1]["note"] == "ä"
    assert first.read_bytes() == second.read_bytes()


def test_a_kernel_lies_in_the_file_as_outputs_by_inputs(tmp_path):
    adapters = toy_lora.trained("embed", rank=2)
    stored, _ = files.header(edits.save(Edit(adapters), tmp_path))
    a = files.read(stored["transformer.context_embedder.lora_A.weight"])
    b = files.read(stored["transformer.context_embedder.lora_B.weight"])
    assert (a.shape, b.shape) == ((2, 12), (16, 2))
    np.testing.assert_array_equal(a.T, adapters["context_embedder"]["A"].astype(a.dtype))


def test_deltas_are_written_and_read_like_adapters(tmp_path):
    edit = Edit(deltas=deltas(), **FACTS)
    path = edits.save(edit, tmp_path)
    assert path.name == "weight_deltas.safetensors"
    assert sorted(files.header(path)[0]) == [
        "transformer.context_embedder.diff",
        "transformer.transformer_blocks.0.attn.add_q_proj.diff",
        "transformer.transformer_blocks.1.attn.add_q_proj.diff",
    ]
    back = edits.load(tmp_path)
    toy_weights.same(back.deltas, rounded(edit.deltas))
    assert back.check(WEIGHTS) == 3
    with pytest.raises(AdapterError, match=r"'soccer ball' changes whole kernels; use `bind`"):
        back.lora()


def test_strength_defaults_to_the_recommended_one():
    edit, plain = Edit(toy_lora.trained(), **FACTS), Edit(toy_lora.trained())
    toy_weights.same(edit.lora(), lora.scaled(edit.adapters, 0.8))
    toy_weights.same(edit.lora(1.0), edit.adapters)
    toy_weights.same(plain.lora(), plain.adapters)


def test_sum_and_mean_of_edits_are_exact_with_each_edits_strength():
    one = Edit(toy_lora.trained("dual_qk"), **FACTS)
    two = Edit(toy_lora.trained("dual_qk", rank=2, seed=1), base="00ff", concept="kiss")
    for combine, weight in [(edits.summed, 1.0), (edits.averaged, 0.5)]:
        both = combine([one, two], [0.5, 1.5])
        assert (both.base, both.concept, both.strength) == ("00ff", "soccer ball, kiss", 1.0)
        changes, c1, c2 = both.changes(), one.changes(0.5), two.changes(1.5)
        for path, change in changes.items():
            np.testing.assert_allclose(change, weight * (c1[path] + c2[path]), atol=1e-5)
    by_default = edits.summed([one, two]).changes()
    c1, c2 = one.changes(0.8), two.changes(1.0)
    for path, change in by_default.items():
        np.testing.assert_allclose(change, c1[path] + c2[path], atol=1e-5)


def test_deltas_combine_too():
    both = edits.averaged([Edit(deltas=deltas(0)), Edit(deltas=deltas(1))])
    np.testing.assert_allclose(
        both.deltas["context_embedder"]["kernel"],
        (deltas(0)["context_embedder"]["kernel"] + deltas(1)["context_embedder"]["kernel"]) / 2,
    )


def test_edits_that_cannot_be_combined_say_why():
    edit, other = Edit(toy_lora.trained(), base="aa"), Edit(toy_lora.trained(), base="bb")
    with pytest.raises(ValueError, match=r"different models, \['aa', 'bb'\]"):
        edits.summed([edit, other])
    with pytest.raises(ValueError, match="1 strengths for 2 edits"):
        edits.summed([edit, edit], [1.0])
    with pytest.raises(ValueError, match="no edit to combine"):
        edits.averaged([])
    with pytest.raises(AdapterError, match="would change nothing"):
        Edit()


def test_a_delta_that_does_not_fit_is_named():
    wrong = {"context_embedder": {"kernel": np.zeros((3, 3), np.float32)}}
    with pytest.raises(AdapterError, match=r"delta of context_embedder has shape \[3, 3\]"):
        edits.bind(Edit(deltas=wrong), WEIGHTS)
    wrong = {"nowhere": {"kernel": np.zeros((3, 3), np.float32)}}
    with pytest.raises(AdapterError, match=r"delta of nowhere .* kernel does not exist"):
        edits.bind(Edit(deltas=wrong), WEIGHTS)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_names_are_read_with_and_without_their_prefix(tmp_path, prefix):
    path = written(tmp_path, pair("context_embedder", prefix=prefix))
    adapter = edits.load(path).adapters["context_embedder"]
    np.testing.assert_array_equal(
        adapter["A"].T, pair("context_embedder")["transformer.context_embedder.lora_A.weight"]
    )


def test_alpha_of_each_key_is_folded_into_b(tmp_path):
    arrays = pair("context_embedder") | pair(Q)
    arrays["transformer.context_embedder.alpha"] = np.float32(2.0).reshape(())
    back = edits.load(written(tmp_path, arrays)).adapters
    b = arrays["transformer.context_embedder.lora_B.weight"]
    np.testing.assert_array_equal(back["context_embedder"]["B"], b.T * 0.5)
    np.testing.assert_array_equal(
        back["transformer_blocks"]["attn"]["add_q_proj"]["B"][0],
        arrays[f"transformer.{Q}.lora_B.weight"].T,
    )


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_alpha_in_diffusers_metadata_is_folded_into_b_and_forgotten(tmp_path, prefix):
    settings = {"r": 4, "lora_alpha": 8, "alpha_pattern": {"attn.add_q_proj": 2.0}}
    settings = {prefix + key: value for key, value in settings.items()}
    arrays = pair("context_embedder") | pair(Q)
    path = written(tmp_path, arrays, {"lora_adapter_metadata": json.dumps(settings)})
    edit = edits.load(path)
    assert edit.more == {}
    np.testing.assert_array_equal(
        edit.adapters["context_embedder"]["B"],
        2 * arrays["transformer.context_embedder.lora_B.weight"].T,
    )
    np.testing.assert_array_equal(
        edit.adapters["transformer_blocks"]["attn"]["add_q_proj"]["B"][0],
        0.5 * arrays[f"transformer.{Q}.lora_B.weight"].T,
    )


def test_alpha_of_peft_lies_beside_the_file(tmp_path):
    arrays = pair("context_embedder", prefix="base_model.model.")
    path = written(tmp_path, arrays)
    with pytest.raises(WeightsError, match=r"alpha in adapter_config\.json; put that file beside"):
        edits.load(path)
    settings = {"r": 4, "lora_alpha": 8, "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    np.testing.assert_array_equal(
        edits.load(path).adapters["context_embedder"]["B"],
        8 / 4**0.5 * arrays["base_model.model.context_embedder.lora_B.weight"].T,
    )


def without(arrays, *names):
    return {name: array for name, array in arrays.items() if name not in names}


C = "transformer.context_embedder"
BROKEN = {
    "a pair without its B": (
        without(pair("context_embedder"), f"{C}.lora_B.weight"),
        "context_embedder has A in .* an adapter is lora_A and lora_B",
    ),
    "an alpha alone": (
        pair(Q) | {f"{C}.alpha": np.ones((), np.float32)},
        "context_embedder has alpha in",
    ),
    "ranks that differ": (
        pair("context_embedder") | {f"{C}.lora_B.weight": np.ones((16, 3), np.float32)},
        "lora_A of rank 4 and lora_B of rank 3",
    ),
    "an unknown layer": (
        pair("context_embedder") | pair("transformer_blocks.0.attn.to_x"),
        r"2 of 4 tensors in .*transformer_blocks\.0\.attn\.to_x\.lora_A",
    ),
    "a norm": (pair("transformer_blocks.0.attn.norm_q"), "2 of 2 tensors"),
    "a text encoder": (pair("text_model.layers.0.q", prefix="text_encoder."), "2 of 2 tensors"),
    "an unknown kind of tensor": (
        pair("context_embedder") | {f"{C}.lora_B.bias": np.ones(16, np.float32)},
        r"1 of 3 tensors .*context_embedder\.lora_B\.bias",
    ),
    "another width in another block": (
        pair(Q) | pair("transformer_blocks.1.attn.add_q_proj", width=12),
        r"A of transformer_blocks\.\*\.attn\.add_q_proj has shapes",
    ),
    "a name twice": (
        pair("context_embedder") | pair("context_embedder", prefix=""),
        "duplicate tensor",
    ),
    "integers": (
        {name: array.astype(np.int32) for name, array in pair("context_embedder").items()},
        r"context_embedder\.lora_A\.weight in .* I32",
    ),
    "nothing": ({}, "holds no tensors"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_with(tmp_path, case):
    arrays, message = BROKEN[case]
    with pytest.raises(WeightsError, match=message):
        edits.load(written(tmp_path, arrays))


def test_more_blocks_than_the_model_has_are_out_of_range(tmp_path):
    arrays = {}
    for block in range(3):
        arrays |= pair(f"transformer_blocks.{block}.attn.add_q_proj")
    edit = edits.load(written(tmp_path, arrays))
    with pytest.raises(AdapterError, match=r"3 blocks of transformer_blocks\.attn\.add_q_proj"):
        edit.check(WEIGHTS)


def test_a_folder_without_an_edit_and_unreadable_settings_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"holds no pytorch_lora_weights\.safetensors"):
        edits.load(tmp_path)
    with pytest.raises(WeightsError, match="does not exist"):
        edits.load(tmp_path / "absent")
    strength = {"recommended_strength": "much"}
    with pytest.raises(WeightsError, match="states the strength 'much'"):
        edits.load(written(tmp_path, pair("context_embedder"), strength))
    dora = {"lora_adapter_metadata": json.dumps({"lora_alpha": 1, "use_dora": True})}
    with pytest.raises(WeightsError, match="says that it is a DoRA; fuse it into the model"):
        edits.load(written(tmp_path, pair("context_embedder"), dora))
    broken = {"lora_adapter_metadata": "[1]"}
    with pytest.raises(WeightsError, match=r"metadata in .* holds a list \(\[1\]\), not an object"):
        edits.load(written(tmp_path, pair("context_embedder"), broken))


@pytest.mark.parametrize("leaf", ["A", "B"])
def test_a_block_of_which_one_factor_is_zero_is_not_changed(leaf):
    adapters = toy_lora.trained("dual_qk")
    before = Edit(adapters).check(WEIGHTS)
    query = adapters["transformer_blocks"]["attn"]["add_q_proj"]
    query[leaf] = np.array(query[leaf])
    query[leaf][0] = 0
    assert Edit(adapters).check(WEIGHTS) == before - 1
