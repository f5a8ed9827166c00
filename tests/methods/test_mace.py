"""MACE's three stages on a small random model, each against what is computed by hand."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_trained as toy
from test_uce import kernel
from toy_steps import BASE, OPTIMISER, SIGMAS, SMALL, Inputs

from ea_jax import lora, settings
from ea_jax.concepts.counterparts import around
from ea_jax.flux.stack import unrolled
from ea_jax.flux.transformer import velocity
from ea_jax.methods import closed_form, fusion, kernel_changes, layer_inputs, mace, regions
from ea_jax.methods.forward import velocity_of
from ea_jax.methods.ready import Ready
from ea_jax.runtime.streams import normal

QK = layer_inputs.QUERIES_AND_KEYS
IMAGE, LAYERS = 6, SMALL.num_layers
REGION = np.array([1, 0, 1, 1, 0, 0], bool)


def ready_of(**section: Any) -> Ready:
    made = toy.ready("mace")
    changed = dataclasses.replace(made.settings.mace, **section)
    return dataclasses.replace(made, settings=dataclasses.replace(made.settings, mace=changed))


@jax.jit
def columns_by_hand(weights, made, x_BSC, t_B, text, columns) -> jax.Array:
    """All columns of every dual block's image queries, [L, B, H, S, N]."""
    _, cols = velocity(
        *(weights, SMALL, x_BSC, t_B, text),
        grid=toy.GRID,
        guidance_B=jnp.full(len(x_BSC), 3.5),
        lora=made,
        columns=columns,
    )
    return cols[:, :, :, -IMAGE:]


@jax.jit
def inputs_of(x_BSC, t, text) -> tuple[jax.Array, jax.Array]:
    """What the text's projections are given in each block [L, B, T, D], and the velocity."""
    t_B = jnp.full(len(x_BSC), t)
    v, inputs = velocity_of(BASE, None, x_BSC, t_B, text, toy.FORWARD, tap=lambda x: x)
    return inputs, v


def test_other_words_move_to_the_optimum_of_their_least_squares() -> None:
    """Of rows that are collected by hand, by a solver that knows no Gram matrix."""
    weights = {"keep": 0.3, "stay": 0.5}
    made = ready_of(times=2, templates=2)
    bank, rows = made.bank, made.bank.rows()[:2]
    inputs = fusion.Inputs(made, templates=2, times=2)
    with jax.set_mesh(made.mesh):
        found_LDD = inputs.refined(BASE, 0, **weights)
    there_BT, goal_BT = around(bank, rows)
    preserve = np.arange(len(bank.groups["preserve"].prompt_G))
    c, move, k = [], [], []
    times = ((1.0, SIGMAS[1]), (SIGMAS[1], 0.0))
    for group, numbers in (("target", rows), ("anchor", rows), ("preserve", preserve)):
        keys = layer_inputs.seeds(made, 0, len(numbers))
        x_BSC = jnp.stack([normal(jax.random.key(key), (6, SMALL.in_channels)) for key in keys])
        for t, after in times:
            own, v = jax.device_get(inputs_of(x_BSC, t, bank.text(group, numbers)))
            if group != "target":
                flat = np.asarray(own).reshape(LAYERS, -1, SMALL.width)
                k.append(flat / np.sqrt(2 * flat.shape[1]))
            else:
                goals, _ = jax.device_get(inputs_of(x_BSC, t, bank.text("anchor", numbers)))
                for row, token in np.argwhere(there_BT):
                    share = 1 / np.sqrt(2 * len(rows) * there_BT[row].sum())
                    c.append(share * own[:, row, token])
                    move.append(share * (goals[:, row, goal_BT[row, token]] - own[:, row, token]))
            x_BSC = x_BSC + (after - t) * v
    kept = np.concatenate(k, axis=1)
    for block in range(LAYERS):
        stay = np.sqrt(0.5) * np.eye(SMALL.width)
        left = [np.stack(c)[:, block], np.sqrt(0.3) * kept[block], stay]
        still = np.zeros((kept.shape[1] + SMALL.width, SMALL.width))
        right = [np.stack(move)[:, block], still]
        wanted = np.linalg.lstsq(np.concatenate(left), np.concatenate(right))[0]
        assert np.abs(wanted).max() > 0.05
        np.testing.assert_allclose(found_LDD[block], wanted, rtol=5e-3, atol=5e-4)


@pytest.fixture(scope="module")
def given() -> tuple[mace.State, mace.Batch]:
    """A state of two concepts; the second one's turn."""
    inputs, rows = Inputs(), 2
    both = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), toy.adapters())
    state = mace.State(
        lora=both,
        optimiser=jax.vmap(OPTIMISER.init)(both),
        refined_CLDD=0.1 * inputs.array(2, LAYERS, SMALL.width, SMALL.width),
        region_PS=jnp.asarray(np.stack([np.zeros(IMAGE, bool), REGION, ~REGION])),
    )
    batch = mace.Batch(
        concept=jnp.int32(1),
        picture_B=jnp.array([2, 1]),
        latent_BSC=inputs.array(rows, IMAGE, SMALL.in_channels),
        text=inputs.text(rows),
        columns=inputs.columns(rows),
        weight_B=jnp.ones(rows),
        seed=jnp.uint32(5),
    )
    return state, batch


@pytest.fixture(scope="module")
def stepped():
    return jax.jit(functools.partial(mace.train_step, forward=toy.FORWARD, optimiser=OPTIMISER))


def test_the_loss_is_the_norm_of_attention_inside_the_region_on_refined_weights(
    given, stepped
) -> None:
    before, batch = given
    noise_key, t_key = jax.random.split(jax.random.key(5))
    noise = normal(noise_key, batch.latent_BSC.shape)
    t_B = mace.focal_levels(t_key, 2)
    t = t_B[:, None, None]
    x_BSC = (1 - t) * batch.latent_BSC + t * noise
    refined = jax.tree.map(lambda leaf: leaf, BASE)
    for name in ("add_q_proj", "add_k_proj"):
        W = BASE["transformer_blocks"]["attn"][name]["kernel"]
        refined["transformer_blocks"]["attn"][name]["kernel"] = W + before.refined_CLDD[1] @ W
    inside = np.stack([~REGION, REGION])[None, :, None, :, None]

    def loss(made):
        cols = columns_by_hand(refined, made, x_BSC, t_B, batch.text, batch.columns)
        return jnp.sqrt((jnp.where(inside, cols, 0) ** 2).sum((2, 3, 4))).sum(0).mean()

    mine = toy.state().replace(lora=jax.tree.map(lambda x: x[1], before.lora))
    after, terms = stepped(before, BASE, batch)
    assert float(terms["mace"]) == pytest.approx(float(loss(mine.lora)), rel=1e-5)
    toy.close(jax.tree.map(lambda x: x[1], after.lora), toy.descended(mine, loss))
    # The other concept waits for its turn.
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), after.lora, before.lora)


def test_queries_outside_the_region_have_no_gradient() -> None:
    cols = jax.random.uniform(jax.random.key(0), (2, 3, 4 + IMAGE, 2))
    region = jnp.asarray(np.stack([REGION, np.zeros(IMAGE, bool)]))
    grads = jax.grad(lambda cols: mace.attention_in(cols, region).sum())(cols)
    assert (np.asarray(grads[0, :, 4:][:, REGION]) > 0).all()
    assert not np.asarray(grads[0, :, :4]).any()
    assert not np.asarray(grads[0, :, 4:][:, ~REGION]).any()
    # An empty region, and so a root of 0.
    assert not np.asarray(grads[1]).any()


def test_a_region_is_where_the_frozen_model_attends_from() -> None:
    made = toy.ready("mace")
    pictures = made.pictures["concept"]
    shown = regions.shown(made, np.arange(len(pictures.number_P)))
    seeds = layer_inputs.seeds(made, 0, len(pictures.number_P))
    noise = jnp.stack([normal(jax.random.key(seed), (IMAGE, SMALL.in_channels)) for seed in seeds])
    x_PSC = 0.6 * shown["latent_BSC"] + 0.4 * noise
    levels_P = jnp.full(len(seeds), 0.4)
    text = jax.tree.map(jnp.asarray, shown["text"])
    columns = jax.tree.map(jnp.asarray, shown["columns"])
    cols = columns_by_hand(BASE, None, x_PSC, levels_P, text, columns)
    map_PS = np.asarray(cols.mean((0, 2)).sum(-1))
    with jax.set_mesh(made.mesh):
        found = regions.found(made, BASE, level=0.4, threshold=0.6)
        least = regions.found(made, BASE, level=0.4, threshold=1.0)
    low, high = map_PS.min(1)[:, None], map_PS.max(1)[:, None]
    np.testing.assert_array_equal(found, (map_PS - low) / (high - low) >= 0.6)
    assert 0 < found.mean() < 1
    assert (least.sum(1) == 1).all()


def test_noise_levels_are_drawn_in_proportion_to_the_difference_of_two_sigmoids() -> None:
    t = np.sort(mace.focal_levels(jax.random.key(0), 20000))
    k = np.arange(1, 1001)
    density = 1 / (1 + np.exp(-0.05 * (k - 200))) - 1 / (1 + np.exp(-0.05 * (k - 400)))
    expected = np.cumsum(density) / density.sum()
    found = np.searchsorted(t, k / 1000, side="right") / len(t)
    assert np.abs(found - expected).max() < 0.015


@pytest.mark.parametrize("rank", [0, 64])
def test_without_prompts_to_keep_one_concept_s_fusion_is_its_own_edit(rank: int) -> None:
    made = ready_of(keep=0.0, stay=1e-9, times=2, templates=4, rank=rank)
    method, key = mace.make(made), jax.random.key(3)
    with jax.set_mesh(made.mesh):
        state = jax.jit(method.init)(key)
        state = state.replace(
            lora=jax.tree.map(lambda x: x + 0.1, state.lora),
            refined_CLDD=0.1 * jax.random.normal(key, state.refined_CLDD.shape),
        )
        edit = method.edit(state, BASE)
        assert method.edit(state, BASE) is edit
    changes, adapters = edit.changes(), dict(lora.walk(state.lora))
    assert set(changes) == set(QK)
    for path in QK:
        wanted = np.asarray(state.refined_CLDD[0]) @ kernel(BASE, path)
        wanted += np.asarray(adapters[path]["A"][0] @ adapters[path]["B"][0])
        np.testing.assert_allclose(changes[path], wanted, rtol=0, atol=2e-3 * np.abs(wanted).max())
    assert bool(edit.deltas) == (not rank)
    shapes = jax.tree.map(np.shape, mace.blank(made.settings, BASE))
    assert shapes == jax.tree.map(np.shape, edit.adapters)


def test_two_concepts_are_fused_at_the_optimum_of_their_least_squares() -> None:
    rng = np.random.default_rng(0)
    keep, stay, wide, out = 0.7, 0.2, 6, 4
    e = [rng.normal(size=(rows, wide)) for rows in (5, 9)]
    changes, k = [rng.normal(size=(wide, out)) for _ in e], rng.normal(size=(7, wide))
    left = [*e, np.sqrt(keep) * k, np.sqrt(stay) * np.eye(wide)]
    own = [x @ change for x, change in zip(e, changes, strict=True)]
    right = [*own, np.zeros((7 + wide, out))]
    wanted = np.linalg.lstsq(np.concatenate(left), np.concatenate(right))[0]
    grams = np.stack([x.T @ x for x in e])
    found = closed_form.fused(grams, np.stack(changes), k.T @ k, keep=keep, stay=stay)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_unrolled_blocks_are_refined_as_stacked_ones() -> None:
    x_LDD = jax.random.normal(jax.random.key(1), (LAYERS, SMALL.width, SMALL.width))
    one = kernel_changes.multiplied(BASE, QK, x_LDD)
    other = kernel_changes.multiplied(unrolled(BASE), QK, x_LDD)
    close = functools.partial(np.testing.assert_allclose, atol=1e-6)
    jax.tree.map(close, other, unrolled(one))
    assert not np.allclose(kernel(one, QK[0]), kernel(BASE, QK[0]))


def test_several_concepts_take_turns_with_pictures_of_their_own() -> None:
    made = toy.ready("mace")
    bank = made.bank
    # Every other sentence as if it were of a second concept.
    plain_G = np.arange(len(bank.plain_G)) % 2
    concept_G = np.arange(len(bank.concept_G)) % 2
    bank = dataclasses.replace(bank, plain_G=plain_G, concept_G=concept_G)
    two = dataclasses.replace(made, bank=bank)
    assert mace.make(two).steps == 2 * made.settings.mace.steps
    for step in range(4):
        batch = mace.batch_of(two, step)
        numbers = made.pictures["concept"].number_P[batch.picture_B]
        assert batch.concept == step % 2
        assert (numbers % 2 == step % 2).all()
        # A toy picture holds the number of its sentence.
        np.testing.assert_array_equal(batch.latent_BSC[:, 0, 0], numbers)


def test_what_cannot_be_mapped_or_fused_is_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"set concept\.anchor=replaced"):
        mace.require_mapping(toy.ready("esd").bank)
    mace.require_mapping(toy.ready("mace").bank)
    made = toy.ready("mace").settings
    assert mace.needs(made).columns
    removed = dataclasses.replace(made.concept, anchor="removed")
    with pytest.raises(settings.SettingsError, match=r"set concept\.anchor=replaced"):
        mace.needs(dataclasses.replace(made, concept=removed))
    image = dataclasses.replace(made, lora=settings.LoraSettings("dual_qk+image", 1, 1.0))
    with pytest.raises(ValueError, match=r"'dual_qk\+image' has other layers .* use dual_qk or"):
        mace.layers_of(image, BASE)
