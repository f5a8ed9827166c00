"""UCE on a small random model: its optimum, its inputs, and what it leaves behind."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_inversions import BALL, LENGTH, encode
from toy_steps import BASE, SMALL
from toy_t5 import t5_tokenizer

from configs import soccer
from ea_jax import edits, lora
from ea_jax import settings as sections
from ea_jax.concepts import bank, rows
from ea_jax.flux import euler, layers
from ea_jax.flux.stack import unrolled
from ea_jax.flux.transformer import Text, velocity
from ea_jax.methods import layer_inputs, uce
from ea_jax.methods.forward import forward_of
from ea_jax.methods.ready import Ready, initial_state
from ea_jax.runtime.mesh import make_mesh
from ea_jax.runtime.streams import normal

SIGMAS = (1.0, 0.8, 0.5, 0.2, 0.0)
QK = uce.LAYERS["dual_qk"]


@pytest.fixture(scope="module")
def made() -> bank.PromptBank:
    concept = dataclasses.replace(BALL, also=("football",), neutral="cloud")
    return bank.build(
        [concept],
        rows.Recipe(shuffles=4, anchor="replaced"),
        preserve=("a photo of a cat", "a dog"),
        encode=encode,
        tokenizer=t5_tokenizer(),
        max_length=LENGTH,
        encoder="random",
    )


def ready_of(made: bank.PromptBank, mesh: dict[str, int] | None = None, **section) -> Ready:
    config = soccer.get_config("tiny+uce")
    config.model.attention = "chunked"
    config.uce.update({"times": 2, "templates": 3, **section})
    run = sections.from_config(config)
    chosen = make_mesh(mesh or {}, None if mesh else jax.devices()[:1])
    return Ready(run, chosen, forward_of(run, SMALL, (2, 3), SIGMAS), BASE, made, {}, "b", "hash")


def edit_of(made: bank.PromptBank, **section) -> edits.Edit:
    ready = ready_of(made, **section)
    method = uce.make(ready)
    assert (method.steps, method.levels) == (0, ())
    with jax.set_mesh(ready.mesh):
        return method.edit(initial_state(method, ready.settings, ready.mesh), BASE)


def kernel(tree, path) -> np.ndarray:
    for name in path:
        tree = tree[name]
    return np.asarray(tree["kernel"], np.float64)


def best(c, move, k, *, stay, erase, keep) -> np.ndarray:
    """Rows of one weight each against a solver that knows no Gram matrix."""
    width = c.shape[1]
    left = [np.sqrt(erase) * c, np.sqrt(keep) * k, np.sqrt(stay) * np.eye(width)]
    right = [np.sqrt(erase) * move, np.zeros((len(k) + width, width))]
    return np.linalg.lstsq(np.concatenate(left), np.concatenate(right))[0]


def test_the_guide_stands_in_the_concept_s_place(made):
    tokens = t5_tokenizer()
    for name, word in (("word", "ball"), ("synonym", "football")):
        numbers = made.rows(names=[name])
        found = uce.guides(made, numbers)
        for number, place in zip(numbers, found, strict=True):
            text = made.texts("anchor")[number]
            assert word not in text
            assert tokens.tokenize(text)[place] == "▁cloud"


def test_without_a_guide_it_is_the_end_of_the_anchor(made):
    plain = bank.build(
        [BALL], rows.Recipe(shuffles=2, anchor="removed"), encode=encode,
        tokenizer=t5_tokenizer(), max_length=LENGTH, encoder="random",
    )  # fmt: skip
    lengths = [len(t5_tokenizer().tokenize(text)) for text in plain.texts("anchor")]
    assert uce.guides(plain, plain.rows()).tolist() == lengths


def test_embedders_change_to_the_optimum_of_the_published_objective(made):
    """Of T5's and of CLIP's first layer, the rows found by hand."""
    weights = {"stay": 0.5, "erase": 2.0, "keep": 0.7}
    edit = edit_of(made, scope="embed", **weights)
    assert (edit.adapters, edit.method, edit.base) == ({}, "uce", "hash")
    c, move, pooled, pooled_move = [], [], [], []
    for name in ("word", "synonym"):
        numbers = made.rows(names=[name])
        share = 1 / np.sqrt(len(numbers))
        for number in numbers:
            target, anchor = (made.text(group, [number]) for group in ("target", "anchor"))
            columns = made.columns("target", [number])
            last = columns.idx_BN[0][columns.mask_BN[0]].max()
            mine = np.asarray(target.t5_BTD[0, last], np.float64)
            [place] = uce.guides(made, np.array([number]))
            c.append(share * mine)
            move.append(share * (np.asarray(anchor.t5_BTD[0, place], np.float64) - mine))
            here, there = (np.asarray(t.pooled_BD[0], np.float64) for t in (target, anchor))
            pooled.append(share * here)
            pooled_move.append(share * (there - here))
    kept = sorted({*made.texts("anchor"), *made.texts("preserve")})
    numbers = [made.prompts.index(text) for text in kept]
    # Tokens of the text, without padding.
    own = [np.asarray(made.t5_UTD[n][made.text_mask_UT[n]], np.float64) for n in numbers]
    k = np.concatenate([tokens / np.sqrt(len(tokens)) for tokens in own])
    for path, mine, goal, others in (
        (("context_embedder",), c, move, k),
        (
            ("time_text_embed", "text_embedder", "linear_1"),
            *(pooled, pooled_move, np.asarray(made.pooled_UD[numbers], np.float64)),
        ),
    ):
        x = best(np.stack(mine), np.stack(goal), others, **weights)
        np.testing.assert_allclose(
            kernel(edit.deltas, path), x @ kernel(BASE, path), rtol=1e-4, atol=1e-6
        )


@jax.jit
def recorded(x_BSC, t_B, text):
    """What Q's projection of the text is given in each block, and the velocity."""
    seen = []
    project = layers.project

    def noted(linear, x, adapters, name):
        if name == "add_q_proj":
            seen.append(x)
        return project(linear, x, adapters, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "project", noted)
        # A block that is traced as a program of its own would hide what it is given.
        patch.setattr(jax, "jit", lambda function: function)
        v, _ = velocity(
            *(unrolled(BASE), SMALL, x_BSC, t_B, text),
            grid=(2, 3),
            guidance_B=jnp.full(len(x_BSC), 3.5),
        )
    return seen, v


def inputs_by_hand(made, group, numbers, x_BSC, t):
    """As `recorded`, of a group's prompts at one noise level, the inputs in float64."""
    text = made.text(group, numbers)
    given = Text(*(jnp.asarray(leaf, jnp.float32) for leaf in (text.t5_BTD, text.pooled_BD)))
    seen, v = recorded(x_BSC, jnp.full(len(x_BSC), t), given)
    return [np.asarray(x, np.float64) for x in seen], v


def moments_by_hand(made, ready):
    """Sums in float64 over sets, noise levels, blocks and tokens, one after another."""
    shape = (SMALL.num_layers, SMALL.width, SMALL.width)
    erased, moved, kept = (np.zeros(shape) for _ in range(3))
    first = 0
    sets = [("target", made.rows(names=[name])[:3]) for name in ("word", "synonym")]
    for group, numbers in (*sets, ("preserve", np.arange(2))):
        keys = layer_inputs.seeds(ready, first, len(numbers))
        first += len(numbers)
        x_BSC = jnp.stack([normal(jax.random.key(key), (6, SMALL.in_channels)) for key in keys])
        for t, after in ((1.0, 0.5), (0.5, 0.0)):
            own, v = inputs_by_hand(made, group, numbers, x_BSC, t)
            without = own
            if group == "target":
                without, _ = inputs_by_hand(made, "anchor", numbers, x_BSC, t)
            for block in range(SMALL.num_layers):
                for row, number in enumerate(numbers):
                    k = without[block][row]
                    weight = 0.5 if group == "preserve" else 0.5 / len(numbers)
                    kept[block] += weight * k.T @ k / LENGTH
                    if group != "target":
                        continue
                    columns = made.columns("target", [number])
                    [place] = uce.guides(made, np.array([number]))
                    tokens = columns.idx_BN[0][columns.mask_BN[0]]
                    for token in tokens:
                        c = own[block][row, token]
                        erased[block] += weight / len(tokens) * np.outer(c, c)
                        moved[block] += weight / len(tokens) * np.outer(c, k[place] - c)
            x_BSC = x_BSC + (after - t) * v
    return erased, moved, kept


def collected(ready: Ready, batch: int):
    with jax.set_mesh(ready.mesh):
        return layer_inputs.collect(ready, BASE, uce.prompts_of(ready, 3), times=2, batch=batch)


def test_collected_moments_are_those_of_a_forward_run_by_hand(made):
    ready = ready_of(made)
    found = collected(ready, batch=4)
    by_hand = moments_by_hand(made, ready)
    for mine, wanted in zip(jax.tree.leaves(found), by_hand, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=2e-3, atol=2e-4)


def test_moments_do_not_depend_on_batches_or_devices(made):
    whole = collected(ready_of(made), batch=8)
    for ready, batch in ((ready_of(made), 1), (ready_of(made, {"data": 4, "fsdp": 2}), 3)):
        other = collected(ready, batch)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), other, whole
        )


def test_a_pass_leaves_moments_and_latents_and_nothing_of_a_prompt_s_length(made):
    """What is held between passes has the same size for any number of prompts and levels."""
    ready, width = ready_of(made), SMALL.width
    [given, *_] = uce.prompts_of(ready, 3)
    zero = jnp.zeros((SMALL.num_layers, width, width))
    x_BSC = jnp.zeros((3, 6, SMALL.in_channels))
    left = jax.eval_shape(
        lambda *arrays: layer_inputs._collected(*arrays, 0, sigmas=SIGMAS, forward=ready.forward),
        *(layer_inputs.Moments(zero, zero, zero), BASE, x_BSC, given),
    )
    assert {leaf.shape for leaf in jax.tree.leaves(left)} == {zero.shape, x_BSC.shape}


def test_queries_and_keys_of_blocks_change_to_the_optimum_of_their_moments(made):
    """By gradient descent to convergence on the objective itself, block by block."""
    weights = {"stay": 0.5, "erase": 2.0, "keep": 0.3}
    ready = ready_of(made, scope="dual_qk", **weights)
    edit = edit_of(made, scope="dual_qk", **weights)
    erased, moved, kept = moments_by_hand(made, ready)
    for path in QK:
        for block, W in enumerate(kernel(BASE, path)):
            x = np.zeros_like(erased[block])
            gram = 2.0 * erased[block] + 0.3 * kept[block] + 0.5 * np.eye(len(x))
            for _ in range(4000):
                x -= (gram @ x - 2.0 * moved[block]) / np.linalg.norm(gram, 2)
            np.testing.assert_allclose(
                kernel(edit.deltas, path)[block], x @ W, rtol=1e-2, atol=2e-3
            )


@pytest.mark.parametrize("scope", list(uce.LAYERS))
@pytest.mark.parametrize("rank", [0, 3])
def test_at_strength_0_an_edit_is_the_base_bit_for_bit(made, scope, rank):
    edit = edit_of(made, scope=scope, rank=rank)
    for weights in (BASE, unrolled(BASE)):
        bound, adapters = edits.bind(edit, weights, 0.0)
        jax.tree.map(np.testing.assert_array_equal, bound, weights)
        if rank:
            assert not any(np.any(pair["B"]) for _, pair in edits.walk(adapters))
        else:
            assert adapters is None
        moved, _ = edits.bind(edit, weights, 1.0)
        assert (rank > 0) == all(
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(weights), strict=True)
        )


@pytest.mark.parametrize("scope", list(uce.LAYERS))
def test_with_a_rank_it_is_a_lora_and_at_full_rank_the_same_change(made, scope, tmp_path):
    whole, low = edit_of(made, scope=scope), edit_of(made, scope=scope, rank=64)
    assert not low.deltas
    changes = low.changes()
    assert set(changes) == set(uce.LAYERS[scope])
    for path, delta in whole.changes().items():
        np.testing.assert_allclose(changes[path], delta, rtol=1e-3, atol=1e-5)
    blank = uce.blank(ready_of(made, scope=scope, rank=64).settings, BASE)
    assert jax.tree.map(np.shape, blank) == jax.tree.map(np.shape, low.adapters)
    assert lora.check(low.adapters, BASE)
    assert edits.save(low, tmp_path).name == edits.LORA_FILE
    assert edits.save(whole, tmp_path).name == edits.DELTA_FILE


def test_levels_are_spread_over_the_schedule():
    assert layer_inputs.thinned(SIGMAS, 2) == (1.0, 0.5, 0.0)
    assert layer_inputs.thinned(SIGMAS, 9) == SIGMAS
    assert len(euler.levels(layer_inputs.thinned(SIGMAS, 3), jnp.float32).time_Z) == 3
