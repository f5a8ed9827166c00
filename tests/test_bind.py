"""`bind`, the one way to use an edit: what it gives runs like the weights merged by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_lora
import toy_weights
from jax.sharding import NamedSharding, PartitionSpec

from ea_jax import edits, lora
from ea_jax.edits import Edit
from ea_jax.flux import axes
from ea_jax.flux.stack import unrolled
from ea_jax.lora import AdapterError
from ea_jax.runtime.mesh import make_mesh

STACKED = toy_weights.random_like(toy_weights.template())
LAYOUTS = {
    "stacked": STACKED,
    "unrolled": unrolled(STACKED),
    "unrolled with transposes": unrolled(STACKED, transposes=True),
}


def kernels(seed=0, blocks=2):
    """Changes of whole kernels: of a stack, and of a layer that stands by itself."""
    draw = np.random.default_rng(seed).normal
    q = {"kernel": draw(size=(blocks, 16, 16)).astype(np.float32)}
    embedder = {"kernel": draw(size=(12, 16)).astype(np.float32)}
    return {"transformer_blocks": {"attn": {"to_q": q}}, "context_embedder": embedder}


EDITS = {
    "adapters": Edit(toy_lora.trained(toy_lora.EVERYWHERE), strength=0.2),
    "kernels": Edit(deltas=kernels(), strength=0.2),
    "both, in one layer too": Edit(toy_lora.trained("image+embed"), kernels(), strength=0.2),
    "kernels of the first block": Edit(deltas=kernels(blocks=1), strength=0.2),
}


def by_hand(edit, strength):
    """The stacked weights with each layer's change added to its kernel."""
    weights = jax.tree.map(np.copy, STACKED)
    for tree in (edit.adapters, edit.deltas):
        for path, layer in lora.walk(tree):
            place = weights
            for name in path:
                place = place[name]
            change = layer["kernel"] if "kernel" in layer else layer["A"] @ layer["B"]
            if change.ndim == 3:
                place["kernel"][: len(change)] += strength * change
            else:
                place["kernel"] += strength * change
    return weights


@pytest.mark.parametrize("strength", [None, -0.3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", EDITS)
def test_a_bound_edit_runs_like_the_weights_merged_by_hand(case, layout, strength):
    edit, base = EDITS[case], toy_lora.forward(STACKED, None)
    weights, adapters = edits.bind(edit, LAYOUTS[layout], strength)
    wanted = toy_lora.forward(by_hand(edit, 0.2 if strength is None else strength), None)
    found = toy_lora.forward(weights, adapters)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * float(np.abs(base).max()))
    assert np.abs(found - base).max() > 1e-2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_adapters_stay_adapters_and_kernels_become_weights(layout):
    given = LAYOUTS[layout]
    weights, adapters = edits.bind(EDITS["adapters"], given)
    assert weights is given
    toy_weights.same(adapters, lora.scaled(EDITS["adapters"].adapters, 0.2))
    weights, adapters = edits.bind(EDITS["kernels"], given)
    assert adapters is None
    assert jax.tree.structure(weights) == jax.tree.structure(given)
    before, after = jax.tree.leaves_with_path(given), jax.tree.leaves(weights)
    changed = {
        ".".join(str(getattr(entry, "key", "")) for entry in path)
        for (path, old), new in zip(before, after, strict=True)
        if new is not old
    }
    wanted = {"context_embedder.kernel"}
    if layout == "stacked":
        wanted |= {"transformer_blocks.attn.to_q.kernel"}
    else:
        wanted |= {"transformer_blocks..attn.to_q.kernel"}
    if layout == "unrolled with transposes":
        wanted |= {"transformer_blocks..attn.to_q.kernel_T"}
    assert changed == wanted


@pytest.mark.parametrize("case", EDITS)
def test_transposes_beside_kernels_are_those_of_the_bound_kernels(case):
    edit = EDITS[case]
    weights, _ = edits.bind(edit, LAYOUTS["unrolled with transposes"])
    merged = lora.merge(weights, toy_lora.trained("image"), 0.1)
    for tree in (weights, merged):
        for block in (*tree["transformer_blocks"], *tree["single_transformer_blocks"]):
            for _, layer in lora.walk(block):
                np.testing.assert_array_equal(layer["kernel_T"], layer["kernel"].T)


def test_merging_adapters_into_unrolled_weights_is_merging_them_into_stacked_ones():
    adapters = toy_lora.trained(toy_lora.EVERYWHERE)
    for transposes in (False, True):
        merged = lora.merge(unrolled(STACKED, transposes=transposes), adapters, 0.3)
        wanted = unrolled(lora.merge(STACKED, adapters, 0.3), transposes=transposes)
        assert jax.tree.structure(merged) == jax.tree.structure(wanted)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged, wanted)


def test_bound_edits_of_one_shape_share_a_program_and_so_do_changes_of_kernels():
    for case in (
        [
            Edit(toy_lora.trained(seed=seed), strength=strength)
            for seed, strength in ((1, 1), (2, 3))
        ],
        [Edit(deltas=kernels(seed=seed)) for seed in (1, 2)],
    ):
        sizes = []
        for edit in case:
            toy_lora.forward(*edits.bind(edit, LAYOUTS["unrolled"]))
            sizes.append(toy_lora.forward._cache_size())
        assert sizes[0] == sizes[1]


def test_kernels_stay_in_bfloat16_and_where_they_lie():
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    for layout in (STACKED, unrolled(STACKED, transposes=True)):
        rounded = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), layout)
        given = jax.device_put(rounded, axes.shardings(mesh, rounded))
        weights, _ = edits.bind(EDITS["kernels"], given)
        for old, new in zip(jax.tree.leaves(given), jax.tree.leaves(weights), strict=True):
            assert (new.sharding, new.dtype) == (old.sharding, jnp.bfloat16)
    embedder = weights["context_embedder"]["kernel"]
    assert embedder.sharding == NamedSharding(mesh, PartitionSpec(None, "fsdp"))


def test_an_edit_that_does_not_fit_is_refused_before_anything_is_bound():
    edit = Edit(deltas=kernels(blocks=3))
    for weights in LAYOUTS.values():
        with pytest.raises(AdapterError, match=r"3 blocks of transformer_blocks\.attn\.to_q"):
            edits.bind(edit, weights)
