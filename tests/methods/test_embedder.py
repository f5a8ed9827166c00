"""The closed form on the text's first layer: its optimum, its rank, and what it erases."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from test_inversions import BALL, LENGTH, encode
from toy_steps import BASE, SMALL
from toy_t5 import t5_tokenizer

from configs import soccer
from ea_jax import edits
from ea_jax import settings as sections
from ea_jax.concepts import bank, rows
from ea_jax.concepts.kept_words import KeptWords
from ea_jax.methods import embedder, text_outputs
from ea_jax.methods.erase_anything import inversions
from ea_jax.methods.forward import forward_of
from ea_jax.methods.pictures import LatentSet
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


def ready_of(made, vocabulary=None, data=None, pictures=None, **section) -> Ready:
    config = soccer.get_config("tiny+embedder")
    config.embedder.update(section)
    config.data.update(data or {})
    run = sections.from_config(config)
    forward = forward_of(run, SMALL, (2, 3), (1.0, 0.0))
    mesh = make_mesh({}, jax.devices()[:1])
    return Ready(run, mesh, forward, BASE, made, pictures or {}, "b", "h", vocabulary)


def change_of(adapter) -> np.ndarray:
    return np.asarray(adapter["A"], np.float64) @ np.asarray(adapter["B"], np.float64)


def best(erased, moves, kept_DD, *, keep, ridge) -> np.ndarray:
    """Against a solver that knows no Gram matrix: what is kept enters by a root of its moments."""
    width = erased.shape[1]
    values, vectors = np.linalg.eigh(kept_DD)
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    mu = ridge * np.square(erased).sum() / width
    left = [erased, np.sqrt(keep) * root, np.sqrt(mu) * np.eye(width)]
    right = np.concatenate([moves, np.zeros((2 * width, width))])
    return np.linalg.lstsq(np.concatenate(left), right)[0]


def test_a_vocabulary_is_kept_beside_the_run_s_prompts(made):
    k = np.random.default_rng(0).standard_normal((30, SMALL.joint_attention_dim))
    words = KeptWords(k.T @ k, np.zeros((SMALL.pooled_projection_dim,) * 2))
    found = embedder.solve(ready_of(made, words, keep=0.3, rank=64), BASE)["context_embedder"]
    rows_of = text_outputs.of_t5(made, slips=0.0)
    kernel = np.asarray(BASE["context_embedder"]["kernel"], np.float64)
    x = best(rows_of.erased_ND, rows_of.moves_ND, rows_of.kept_DD + k.T @ k, keep=0.3, ridge=0.1)
    np.testing.assert_allclose(change_of(found), x @ kernel, rtol=1e-4, atol=1e-6)


def test_the_pooled_output_goes_to_that_of_the_anchor_where_it_is_asked_for(made):
    ready = ready_of(made, keep=0.3, rank=64, encoders="both")
    found = embedder.solve(ready, BASE)
    like = embedder.blank(ready.settings, BASE)
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, like)
    layer = found["time_text_embed"]["text_embedder"]["linear_1"]
    numbers = made.rows()
    here, there = (
        made.text(group, numbers).pooled_BD.astype(np.float64) for group in ("target", "anchor")
    )
    kept = sorted({*made.texts("anchor"), *made.texts("preserve")})
    k = made.pooled_UD[[made.prompts.index(text) for text in kept]].astype(np.float64)
    share = 1 / np.sqrt(len(numbers))
    x = best(share * here, share * (there - here), k.T @ k, keep=0.3, ridge=0.1)
    kernel = np.asarray(BASE["time_text_embed"]["text_embedder"]["linear_1"]["kernel"], np.float64)
    np.testing.assert_allclose(change_of(layer), x @ kernel, rtol=1e-4, atol=1e-6)
    assert set(embedder.solve(ready_of(made), BASE)) == {"context_embedder"}


def test_inversions_are_erased_with_a_weight_of_their_own(made, monkeypatch):
    """They are rows like the word's, and weigh together what is asked for."""
    width, asked = SMALL.joint_attention_dim, []
    found_MND = np.random.default_rng(3).standard_normal((4, 2, width)).astype(np.float32)

    def find(self, base, lora, numbers, *, fingerprint):
        asked.append((lora, numbers, fingerprint))
        return found_MND

    monkeypatch.setattr(inversions.Search, "find", find)
    latents = LatentSet(np.zeros((2, 6, SMALL.in_channels), np.float32), np.arange(2), (1, 2))
    ready = ready_of(
        made,
        pictures={"concept": latents},
        data={"inversions": 4},
        **{"inversions": 0.25, "keep": 0.3, "rank": 64},
    )
    assert embedder.needs(ready.settings).concept
    found = embedder.solve(ready, BASE)["context_embedder"]
    assert asked == [(None, range(4), "b")]
    alone = text_outputs.of_t5(made, slips=0.0)
    extra = np.sqrt(0.25 / 8) * found_MND.reshape(8, width).astype(np.float64)
    goal = np.sqrt(0.25 / 8) * text_outputs.padding(made)
    x = best(
        np.concatenate([alone.erased_ND, extra]),
        np.concatenate([alone.moves_ND, goal - extra]),
        *(alone.kept_DD,),
        **{"keep": 0.3, "ridge": 0.1},
    )
    kernel = np.asarray(BASE["context_embedder"]["kernel"], np.float64)
    np.testing.assert_allclose(change_of(found), x @ kernel, rtol=1e-4, atol=1e-6)
    assert not embedder.needs(ready_of(made).settings).concept


def test_a_weight_that_counts_for_nothing_is_an_error(made):
    with pytest.raises(sections.SettingsError, match=r"embedder\.inversions = 1 weighs nothing"):
        ready_of(made, inversions=1.0)


def test_the_growth_with_the_number_of_words_is_a_setting_and_a_share_replaces_it(
    made, monkeypatch
):
    solve, weights = embedder.solved, []

    def solved(rows, *, keep, ridge):
        weights.append(keep)
        return solve(rows, keep=keep, ridge=ridge)

    monkeypatch.setattr(embedder, "solved", solved)
    monkeypatch.setattr(type(made), "concepts", property(lambda bank: 4))
    embedder.solve(ready_of(made, keep=0.1, growth=0.5), BASE)
    embedder.solve(ready_of(made, keep=0.1, growth=0.5, remains=0.2), BASE)
    assert weights[0] == pytest.approx(0.2)
    rows_of = text_outputs.of_t5(made, slips=0.0)
    left, _ = solve(rows_of, keep=weights[1], ridge=0.1)
    assert embedder.closed_form.left_over(rows_of, left) == pytest.approx(0.2, rel=0.02)


def test_at_strength_0_it_is_the_base_bit_for_bit(made):
    ready = ready_of(made, encoders="both")
    edit = embedder.make(ready).edit({}, BASE)
    bound, adapters = edits.bind(edit, BASE, 0.0)
    assert bound is BASE
    assert not any(np.any(pair["B"]) for _, pair in edits.walk(adapters))
