"""Adapters: where they are, that they start as nothing, what they add, what trains."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_lora
import toy_weights
from flax import traverse_util

from ea_jax import lora
from ea_jax.flux.stack import unrolled
from ea_jax.flux.transformer import TransformerConfig, abstract_weights
from ea_jax.lora import AdapterError

WEIGHTS = toy_weights.random_like(toy_weights.template())
DUAL = "transformer_blocks.attn"


def dotted(paths):
    return [".".join(path) for path in paths]


def leaves(tree):
    return {".".join(path): leaf for path, leaf in traverse_util.flatten_dict(tree).items()}


@pytest.mark.parametrize(
    ("scope", "modules"),
    [
        ("dual_qk", [f"{DUAL}.add_k_proj", f"{DUAL}.add_q_proj"]),
        (
            "dual_qk+image",
            [f"{DUAL}.add_k_proj", f"{DUAL}.add_q_proj", f"{DUAL}.to_k", f"{DUAL}.to_q"],
        ),
        ("dual_qkv", [f"{DUAL}.add_k_proj", f"{DUAL}.add_q_proj", f"{DUAL}.add_v_proj"]),
        (
            "dual+single",
            [
                "single_transformer_blocks.attn.to_k",
                "single_transformer_blocks.attn.to_q",
                f"{DUAL}.add_k_proj",
                f"{DUAL}.add_q_proj",
            ],
        ),
        (
            "embed",
            [
                "context_embedder",
                "time_text_embed.text_embedder.linear_1",
                "time_text_embed.text_embedder.linear_2",
            ],
        ),
    ],
)
def test_a_scope_names_its_layers(scope, modules):
    assert dotted(lora.targets(scope, WEIGHTS)) == modules


@pytest.mark.parametrize(
    ("scope", "hint"),
    [("dual_kq", "did you mean 'dual_qk'"), ("dual_qk+imag", "did you mean 'image'"), ("", "use")],
)
def test_an_unknown_scope_is_an_error_with_a_suggestion(scope, hint):
    with pytest.raises(ValueError, match=hint):
        lora.targets(scope, WEIGHTS)


def test_a_scope_on_layers_the_model_lacks_is_an_error():
    with pytest.raises(AdapterError, match="context_embedder, time_text_embed"):
        lora.targets("embed", {"transformer_blocks": WEIGHTS["transformer_blocks"]})


def test_adapters_start_normal_with_deviation_one_over_rank_and_b_zero():
    weights = abstract_weights(TransformerConfig(num_layers=2, num_single_layers=1))
    tree = lora.init(jax.random.key(0), weights, scope="dual_qk", rank=8)
    for name, leaf in leaves(tree).items():
        assert leaf.dtype == jnp.float32
        if name.endswith(".A"):
            assert leaf.shape == (2, 3072, 8)
            assert float(leaf.std()) == pytest.approx(1 / 8, rel=0.02)
            assert abs(float(leaf.mean())) < 0.005
        else:
            assert leaf.shape == (2, 8, 3072)
            assert not leaf.any()


def test_every_layer_and_block_starts_differently_and_alike_in_every_scope():
    narrow = leaves(lora.init(jax.random.key(0), WEIGHTS, scope="dual_qk", rank=2))
    wide = leaves(lora.init(jax.random.key(0), WEIGHTS, scope="dual_qk+image", rank=2))
    for name, leaf in narrow.items():
        np.testing.assert_array_equal(leaf, wide[name])
    As = np.concatenate([leaf for name, leaf in wide.items() if name.endswith(".A")])
    assert len(np.unique(As[:, 0, 0])) == len(As) == 8


def test_rank_zero_is_an_error():
    with pytest.raises(ValueError, match="rank 0 is out of range"):
        lora.init(jax.random.key(0), WEIGHTS, scope="dual_qk", rank=0)


@pytest.mark.parametrize("rank", [11, 100_000_000])
def test_a_rank_above_a_layers_widths_is_an_error_before_anything_is_allocated(rank):
    shapes = toy_weights.template()
    message = (
        rf"rank {rank} is out of range: time_text_embed\.text_embedder\.linear_1 has 10 inputs and "
        r"16 outputs; choose a rank \(lora\.rank\) of at most 10"
    )
    with pytest.raises(ValueError, match=message):
        lora.init(jax.random.key(0), shapes, scope="embed", rank=rank)
    lora.init(jax.random.key(0), shapes, scope="embed", rank=10)


def test_fresh_adapters_leave_the_base_bit_for_bit():
    fresh = lora.init(jax.random.key(0), WEIGHTS, scope=toy_lora.EVERYWHERE, rank=4)
    np.testing.assert_array_equal(toy_lora.forward(WEIGHTS, fresh), toy_lora.forward(WEIGHTS, None))


@pytest.mark.parametrize("group", sorted(lora.GROUPS))
def test_every_layer_of_a_group_changes_the_velocity(group):
    base = toy_lora.forward(WEIGHTS, None)
    for path in lora.targets(group, WEIGHTS):
        adapter = dict(lora.walk(toy_lora.trained(group)))[path]
        alone = traverse_util.unflatten_dict({path: adapter})
        assert jnp.abs(toy_lora.forward(WEIGHTS, alone) - base).max() > 1e-3, path


def test_merging_equals_applying():
    adapters = toy_lora.trained(toy_lora.EVERYWHERE)
    applied = toy_lora.forward(WEIGHTS, lora.scaled(adapters, 0.3))
    merged = toy_lora.forward(lora.merge(WEIGHTS, adapters, 0.3), None)
    base = toy_lora.forward(WEIGHTS, None)
    np.testing.assert_allclose(applied, merged, atol=1e-4 * float(jnp.abs(base).max()))
    assert jnp.abs(applied - base).max() > 0.1


def test_merging_touches_the_kernels_of_the_scope_only_and_keeps_their_dtype():
    weights = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), WEIGHTS)
    merged = leaves(lora.merge(weights, toy_lora.trained("dual_qk")))
    changed = [name for name, leaf in leaves(weights).items() if merged[name] is not leaf]
    assert sorted(changed) == [f"{DUAL}.add_k_proj.kernel", f"{DUAL}.add_q_proj.kernel"]
    assert {leaf.dtype for leaf in merged.values()} == {jnp.dtype(jnp.bfloat16)}


def test_strength_is_linear_in_what_is_added():
    adapters = toy_lora.trained()
    once = dict(lora.walk(lora.scaled(adapters, 0.7)))
    twice = dict(lora.walk(lora.scaled(lora.scaled(adapters, 0.7), 2.0)))
    for path, adapter in lora.walk(adapters):
        np.testing.assert_allclose(
            lora.delta(once[path]), 0.7 * lora.delta(adapter), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(
            lora.delta(twice[path]), 1.4 * lora.delta(adapter), rtol=1e-4, atol=1e-6
        )
    assert not any(np.any(a["B"]) for _, a in lora.walk(lora.scaled(adapters, 0.0)))


def loaded_and_trained():
    """Adapters of a wider scope, as from a file, of which only `dual_qk` is to be trained."""
    return toy_lora.trained("dual_qk+image")


def test_labels_are_train_in_the_scope_and_frozen_elsewhere():
    adapters = loaded_and_trained()
    labels = lora.labels(adapters, "dual_qk")
    assert jax.tree.structure(labels) == jax.tree.structure(adapters)
    for name, label in leaves(labels).items():
        assert label == ("train" if ".add_" in name else "frozen")


def test_labels_without_anything_to_train_are_an_error():
    with pytest.raises(AdapterError, match="no adapter of scope 'embed'"):
        lora.labels(toy_lora.trained("dual_qk"), "embed")


def test_frozen_adapters_neither_move_nor_have_moments():
    adapters = loaded_and_trained()
    optimiser = optax.partition(
        {"train": optax.adamw(1e-3), "frozen": optax.set_to_zero()},
        lora.labels(adapters, "dual_qk"),
    )
    state = optimiser.init(adapters)
    grads = jax.grad(lambda tree: jnp.square(toy_lora.forward(WEIGHTS, tree)).sum())(adapters)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))
    updates, state = optimiser.update(grads, state, adapters)
    moved = leaves(optax.apply_updates(adapters, updates))
    for name, leaf in leaves(adapters).items():
        assert np.array_equal(leaf, moved[name]) == (".add_" not in name), name
    moments = [leaf for leaf in jax.tree.leaves(state) if jnp.ndim(leaf)]
    trained = [leaf for name, leaf in leaves(adapters).items() if ".add_" in name]
    assert sorted(m.shape for m in moments) == sorted(2 * [leaf.shape for leaf in trained])


def test_concatenated_adapters_add_exactly_what_each_adds():
    one, two = toy_lora.trained("dual_qk", rank=4), toy_lora.trained("dual_qk+image", 2, seed=1)
    both = dict(lora.walk(lora.concatenate([one, two])))
    for path, adapter in lora.walk(two):
        expected, rank = lora.delta(adapter), 2
        if path in dict(lora.walk(one)):
            expected, rank = expected + lora.delta(dict(lora.walk(one))[path]), 6
        assert both[path]["A"].shape[-1] == rank
        np.testing.assert_allclose(lora.delta(both[path]), expected, rtol=1e-5, atol=1e-5)


def test_adapters_that_stop_before_the_last_block_add_nothing_behind_it():
    whole = toy_lora.trained("dual_qk", rank=4)
    short = jax.tree.map(lambda leaf: leaf[:1], toy_lora.trained("dual_qk", rank=2, seed=1))
    both = dict(lora.walk(lora.concatenate([short, whole])))
    for path, adapter in lora.walk(whole):
        added = lora.delta(both[path]) - lora.delta(adapter)
        expected = lora.delta(dict(lora.walk(short))[path])
        np.testing.assert_allclose(added[:1], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(added[1:], 0, atol=1e-5)


def test_adapters_of_another_model_do_not_concatenate():
    narrow = toy_weights.template({**toy_weights.CONFIG, "num_attention_heads": 1})
    other = lora.init(jax.random.key(0), narrow, scope="dual_qk", rank=4)
    with pytest.raises(AdapterError, match=r"are for kernels of .* of the same model"):
        lora.concatenate([toy_lora.trained(), other])


def wrong(**changes):
    tree = traverse_util.flatten_dict(toy_lora.trained())
    for name, leaf in changes.items():
        path = tuple(name.split("__"))
        tree = {key: value for key, value in tree.items() if key[: len(path)] != path}
        if leaf is not None:
            tree[path] = leaf
    return traverse_util.unflatten_dict(tree)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "the LoRA is empty"),
        ({"nowhere": {"A": np.ones((2, 1)), "B": np.ones((1, 2))}}, "matches nothing .*: nowhere"),
        (
            wrong(transformer_blocks__attn__to_x={"A": np.ones((2, 1)), "B": np.ones((1, 2))}),
            r"matches only 2 of 3 layers .* transformer_blocks\.attn\.to_x",
        ),
        (
            wrong(
                transformer_blocks__attn__add_q_proj={
                    "A": np.ones((3, 16, 4)),
                    "B": np.ones((3, 4, 16)),
                }
            ),
            r"3 blocks of transformer_blocks\.attn\.add_q_proj, the model 2",
        ),
        (
            wrong(transformer_blocks__attn__add_q_proj__A=np.ones((2, 15, 4))),
            r"add_q_proj has A \[2, 15, 4\] and B \[2, 4, 16\], which don't fit",
        ),
        (
            wrong(transformer_blocks__attn__add_q_proj__A=np.ones((2, 16, 5))),
            r"add_q_proj has A \[2, 16, 5\] and B \[2, 4, 16\], which don't fit",
        ),
        (wrong(transformer_blocks__attn__add_q_proj__B=None), r"add_q_proj holds \['A'\]"),
    ],
)
def test_adapters_that_do_not_fit_the_model_are_an_error_that_names_them(tree, message):
    for weights in (WEIGHTS, unrolled(WEIGHTS)):
        with pytest.raises(AdapterError, match=message):
            lora.check(tree, weights)
    with pytest.raises(AdapterError, match=message):
        toy_lora.forward(WEIGHTS, tree)


def test_check_counts_blocks_one_by_one():
    for weights in (WEIGHTS, unrolled(WEIGHTS)):
        assert lora.check(toy_lora.trained("dual_qk+embed"), weights) == 2 * 2 + 3
