"""The closed form on the text's first layer: its optimum, its rank, and what it erases."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from test_inversions import BALL, LENGTH, encode
from toy_steps import BASE, SMALL
from toy_t5 import t5_tokenizer

from configs import soccer
from ea_jax import settings as sections
from ea_jax.concepts import bank, rows
from ea_jax.methods import embedder, text_outputs
from ea_jax.methods.forward import forward_of
from ea_jax.methods.ready import Ready, initial_state
from ea_jax.runtime.mesh import make_mesh


@pytest.fixture(scope="module")
def made() -> bank.PromptBank:
    return bank.build(
        [BALL],
        rows.Recipe(shuffles=4),
        preserve=("a cloud", "a photo of a cat"),
        encode=encode,
        tokenizer=t5_tokenizer(),
        max_length=LENGTH,
        encoder="random",
    )


def test_it_is_the_least_squares_solution_of_its_rows():
    """Against a solver that stacks erased, kept and ridge rows and knows no Gram matrix."""
    rng = np.random.default_rng(0)
    e, m, k = (rng.standard_normal((n, 5)) for n in (7, 7, 9))
    left, right = embedder.solved(embedder.Outputs(e, m, k.T @ k), keep=0.3, ridge=0.2)
    mu = 0.2 * np.square(e).sum() / 5
    stacked = np.concatenate([e, np.sqrt(0.3) * k, np.sqrt(mu) * np.eye(5)])
    wanted = np.concatenate([m, np.zeros((9 + 5, 5))])
    best, *_ = np.linalg.lstsq(stacked, wanted)
    np.testing.assert_allclose(left @ right, best, rtol=1e-9, atol=1e-12)


def test_a_rank_is_the_best_of_its_size_and_its_error_is_stated():
    rng = np.random.default_rng(1)
    u, _ = np.linalg.qr(rng.standard_normal((8, 4)))
    v, _ = np.linalg.qr(rng.standard_normal((6, 4)))
    values = np.array([10.0, 5.0, 1.0, 0.1])
    left, right = u * values, v.T
    for rank in (1, 2, 3, 4, 6):
        A, B, error = embedder.low_rank(left, right, rank)
        kept = min(rank, 4)  # there are no more directions
        assert (A.shape, B.shape) == ((8, kept), (kept, 6))
        left_over = np.linalg.norm(values[kept:])
        np.testing.assert_allclose(np.linalg.norm(left @ right - A @ B), left_over, atol=1e-12)
        np.testing.assert_allclose(error, left_over / np.linalg.norm(values), atol=1e-12)


def test_erased_are_the_concepts_tokens_and_kept_all_others_of_a_prompt(made):
    found = text_outputs.of_t5(made, slips=1.0)
    concept_prompts = {*made.texts("target"), *made.texts("plain")}
    # "soccer ball" is two tokens of each sentence; each of the two sets weighs what it should.
    assert len(found.erased_ND) == 2 * len(concept_prompts)
    own_UT = np.zeros(made.text_mask_UT.shape, bool)
    for group in ("target", "plain"):
        chosen = made.groups[group]
        own_UT[chosen.prompt_G[:, None], chosen.idx_GN] |= chosen.mask_GN
    kept_DD = 0.0
    for text in (*concept_prompts, "a cloud", "a photo of a cat"):
        number = made.prompts.index(text)
        k_TD = made.t5_UTD[number].astype(np.float64)[~own_UT[number]]
        assert len(k_TD) == LENGTH - 2 * (text in concept_prompts)
        kept_DD += k_TD.T @ k_TD / len(k_TD)
    np.testing.assert_allclose(found.kept_DD, kept_DD, rtol=1e-9)
    e_ND = found.erased_ND * np.sqrt(len(found.erased_ND))
    text, columns = made.text("plain", [0]), made.columns("plain", [0])
    own_ND = text.t5_BTD[0].astype(np.float64)[columns.idx_BN[0, :2]]
    for e in own_ND:
        assert np.isclose(e_ND, e).all(-1).any()
    # Where they go: to the mean output at padding, behind the text's end.
    ends = made.text_mask_UT.sum(-1) + 1
    padding = np.concatenate(
        [row[end:] for row, end in zip(made.t5_UTD, ends, strict=True)]
    ).astype(np.float64)
    goal_ND = e_ND + found.moves_ND * np.sqrt(len(found.moves_ND))
    np.testing.assert_allclose(goal_ND, np.broadcast_to(padding.mean(0), goal_ND.shape), atol=1e-9)


def test_the_edit_moves_the_layers_output_at_the_concept_to_that_of_padding(made):
    config = soccer.get_config("tiny+embedder")
    config.embedder.update({"keep": 0.0, "ridge": 1e-9, "rank": 64})
    run = sections.from_config(config)
    mesh = make_mesh({}, jax.devices()[:1])
    forward = forward_of(run, SMALL, (2, 3), (1.0, 0.0))
    method = embedder.make(Ready(run, mesh, forward, BASE, made, {}, "base", "hash"))
    assert (method.steps, method.levels) == (0, ())
    edit = method.edit(initial_state(method, run, mesh), BASE)
    assert (edit.base, edit.concept, edit.preset) == ("hash", "soccer ball", "embedder")
    adapter = edit.adapters["context_embedder"]
    kernel = np.asarray(BASE["context_embedder"]["kernel"], np.float64)
    rank_of_keys = np.linalg.matrix_rank(text_outputs.of_t5(made, slips=1.0).erased_ND)
    assert adapter["A"].shape == (SMALL.joint_attention_dim, adapter["B"].shape[0])
    delta = np.asarray(adapter["A"], np.float64) @ np.asarray(adapter["B"], np.float64)
    assert np.linalg.matrix_rank(delta, tol=1e-5) <= rank_of_keys
    like = embedder.blank(run, BASE)["context_embedder"]
    assert jax.tree.map(np.shape, adapter) == jax.tree.map(np.shape, like)
    found = text_outputs.of_t5(made, slips=1.0)
    best, *_ = np.linalg.lstsq(found.erased_ND, found.moves_ND @ kernel)
    np.testing.assert_allclose(
        found.erased_ND @ delta, found.erased_ND @ best, rtol=1e-3, atol=1e-4
    )


def test_what_is_kept_weighs_more_with_each_word_of_a_run(made, monkeypatch):
    run = sections.from_config(soccer.get_config("tiny+embedder"))
    mesh = make_mesh({}, jax.devices()[:1])
    ready = Ready(run, mesh, forward_of(run, SMALL, (2, 3), (1.0, 0.0)), BASE, made, {}, "b", "h")
    solve, weights = embedder.solved, []

    def solved(rows, *, keep, ridge):
        weights.append(keep)
        return solve(rows, keep=keep, ridge=ridge)

    monkeypatch.setattr(embedder, "solved", solved)
    embedder.solve(ready, BASE)
    monkeypatch.setattr(type(made), "concepts", property(lambda bank: 3))
    embedder.solve(ready, BASE)
    assert weights == [run.embedder.keep, 9 * run.embedder.keep]
