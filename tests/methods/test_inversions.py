"""The search for embeddings that paint a concept, on a small random model, and their rows."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_steps import BASE, SMALL, Inputs, settings, step
from toy_t5 import t5_tokenizer

from configs import soccer
from ea_jax import lora
from ea_jax import settings as sections
from ea_jax.concepts import bank, rows
from ea_jax.flux.columns import Columns
from ea_jax.flux.transformer import Text, velocity
from ea_jax.methods.erase_anything import inversions
from ea_jax.methods.erase_anything.batches import Batches
from ea_jax.methods.erase_anything.steps import lower_step
from ea_jax.methods.pictures import LatentSet
from ea_jax.methods.trajectories import Turns
from ea_jax.runtime.mesh import make_mesh
from ea_jax.runtime.metrics import NonFiniteError

LENGTH = 8
BALL = rows.Concept(
    "soccer ball", ("a {} beside a dog", "a photo of a {}"), ("football",), (("cloud",),)
)
GRID = (2, 3)
ROWS = 32


def encode(prompts):
    """Each prompt's own random numbers."""

    def one(prompt, *shape):
        return np.random.default_rng(list(prompt.encode())).standard_normal(shape)

    wide, pooled = SMALL.joint_attention_dim, SMALL.pooled_projection_dim
    return (
        np.stack([one(p, LENGTH, wide) for p in prompts]),
        np.stack([one(p, pooled) for p in prompts]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def made() -> bank.PromptBank:
    return bank.build(
        [dataclasses.replace(BALL, also=("football",))],
        rows.Recipe(shuffles=4),
        encode=encode,
        tokenizer=t5_tokenizer(),
        max_length=LENGTH,
        encoder="random",
    )


def experiment(**data) -> sections.Settings:
    config = soccer.get_config()
    config.optim.batch = 2
    config.data.update({"inversions": 3, "inversion_steps": 40, "cache": None, **data})
    return sections.from_config(config)


def search(made, mesh=None, latent=1.0, lora=None, numbers=None, fingerprint=None, **data):
    rng = np.random.default_rng(0)
    rows = np.resize(made.plain(names=["word"]), 4)
    latent_PSC = latent * rng.standard_normal((4, 6, SMALL.in_channels), np.float32)
    chosen = experiment(**data)
    searcher = inversions.Search(
        made,
        LatentSet(latent_PSC, rows, list(range(4))),
        settings=chosen,
        forward=settings(grid=GRID),
        mesh=make_mesh(mesh or {"data": 1, "fsdp": 1, "tensor": 1}),
    )
    numbers = range(chosen.data.inversions) if numbers is None else numbers
    inversions_MND = searcher.find(BASE, lora, numbers, fingerprint=fingerprint)
    assert inversions_MND.shape == (len(numbers), *searcher.shape[1:])
    return inversions_MND


@jax.jit
def velocity_under(text, x_BSC, lora=None):
    """At t = 0.875 and guidance 3.5."""
    t_B, guidance_B = jnp.full(ROWS, 0.875), jnp.full(ROWS, 3.5)
    return velocity(BASE, SMALL, x_BSC, t_B, text, grid=GRID, guidance_B=guidance_B, lora=lora)[0]


def miss(made, e_ND, lora=None) -> float:
    """Error of a model's velocity under an embedding, against the frozen one's under the word."""
    rng = np.random.default_rng(1)
    x_BSC = jnp.asarray(rng.standard_normal((ROWS, 6, SMALL.in_channels)), jnp.float32)
    numbers = np.resize(made.plain(names=["word"]), ROWS)
    text = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), made.text("plain", numbers))
    e_BND = jnp.broadcast_to(jnp.asarray(e_ND), (ROWS, *e_ND.shape))
    t5_BTD = made.columns("plain", numbers).placed(text.t5_BTD, e_BND)
    found = velocity_under(Text(t5_BTD, text.pooled_BD), x_BSC, lora)
    return float(jnp.square(found - velocity_under(text, x_BSC)).mean())


def test_embeddings_take_the_places_of_the_concepts_tokens_and_no_others():
    t5_BTD = jnp.arange(10.0).reshape(1, 5, 2)
    columns = Columns(jnp.array([[3, 1, 4, 0]]), jnp.array([[True, True, True, False]]))
    e_BND = jnp.array([[[-1.0, -1.0], [-2.0, -2.0]]])
    placed = np.asarray(columns.placed(t5_BTD, e_BND))[0]
    np.testing.assert_array_equal(placed[:, 0], [0, -2, 4, -1, -1])


def test_what_is_found_paints_like_the_word_and_is_not_the_word(made):
    started = search(made, inversion_steps=1, inversion_rate=1e-6)
    found = search(made, inversion_steps=150, inversion_rate=0.2)
    assert found.shape == (3, 2, SMALL.joint_attention_dim)
    ratios = [miss(made, e) / miss(made, start) for e, start in zip(found, started, strict=True)]
    assert max(ratios) < 0.6
    numbers = made.plain(names=["word"])[:1]
    text, columns = made.text("plain", numbers), made.columns("plain", numbers)
    own = text.t5_BTD[0].astype(np.float32)[columns.idx_BN[0, :2]]
    for e in found:
        apart = np.linalg.norm(e - own, axis=-1) / np.linalg.norm(own, axis=-1)
        assert apart.min() > 0.3


def test_a_search_is_of_the_model_as_it_is_by_then(made):
    """What is found for a model that a LoRA has moved serves it better than the frozen one's."""
    adapters = lora.init(jax.random.key(1), BASE, scope="dual_qkv", rank=2)
    rng = np.random.default_rng(4)
    adapters = jax.tree.map(lambda x: x + 0.4 * rng.standard_normal(x.shape), adapters)
    options = {"inversion_steps": 60, "inversion_rate": 0.3}
    frozen, moved = search(made, **options), search(made, lora=adapters, **options)
    for e, other in zip(moved, frozen, strict=True):
        assert miss(made, e, adapters) < 0.8 * miss(made, other, adapters)


@pytest.mark.slow
def test_an_inversion_does_not_depend_on_those_searched_beside_it(made):
    last, three = search(made, numbers=range(2, 3)), search(made)
    np.testing.assert_allclose(last[0], three[2], rtol=1e-4, atol=1e-5)
    assert not np.allclose(three[0], three[1], atol=0.1)


def test_what_the_frozen_model_gave_is_read_again(made, tmp_path, monkeypatch):
    options = {"inversion_steps": 2, "cache": str(tmp_path), "fingerprint": "weights"}
    found = search(made, **options)

    def searched(*_):
        raise AssertionError("searched again")

    monkeypatch.setattr(inversions.Search, "_find", searched)
    np.testing.assert_array_equal(search(made, **options), found)
    others = [
        {"fingerprint": "others"},
        {"fingerprint": None},
        {"inversion_steps": 3},
        {"latent": 2.0},
    ]
    for other in (*others, {"numbers": range(1, 3)}):
        with pytest.raises(AssertionError, match="searched again"):
            search(made, **{**options, **other})


@pytest.mark.slow
def test_devices_share_a_search(made):
    alone = search(made, inversion_steps=3)
    shared = search(made, {"data": 4, "fsdp": 2, "tensor": 1}, inversion_steps=3)
    np.testing.assert_allclose(shared, alone, rtol=1e-3, atol=1e-4)


def test_a_search_among_pictures_that_are_no_numbers_stops(made):
    with pytest.raises(NonFiniteError, match=r"inversion_rate = 0\.5, or set data\.inversions=0"):
        search(made, inversion_steps=1, latent=np.nan)


def test_rounds_are_spread_over_the_run():
    run = experiment(inversions=5, inversion_rounds=2)
    run = dataclasses.replace(run, optim=dataclasses.replace(run.optim, pairs=9))
    due = {step: list(inversions.due(run, step, 1)) for step in range(9)}
    assert {step: numbers for step, numbers in due.items() if numbers} == {0: [0, 1, 2], 4: [3, 4]}
    assert [inversions.known_by(run, step, 1) for step in (0, 3, 4, 8)] == [3, 3, 5, 5]
    # Two concepts have as many each, and take turns.
    assert list(inversions.due(run, 4, 2)) == [6, 7, 8, 9]
    assert inversions.of_concept(1, 2, known=6).tolist() == [1, 3, 5]


def test_rows_take_words_synonyms_and_inversions_alike(made):
    run = experiment(inversions=3, inversion_rounds=2)
    batches = Batches(run, made, Turns(run.data.pool, run.optim.batch, 4), None, None)
    for start, known in ((0, 2), (run.optim.pairs // 2, 3)):
        drawn = [batches.lower(start + i) for i in range(90)]
        inversion = np.concatenate([batch.inversion_B for batch in drawn])
        assert set(inversion.tolist()) == {-1, *range(known)}
        # One in three: there is one synonym.
        assert 0.2 < (inversion >= 0).mean() < 0.47
        for batch in drawn:
            for row in np.flatnonzero(batch.inversion_B >= 0):
                assert batch.columns.mask_BN[row].sum() == 2  # "soccer ball", not "football"


def test_an_inversion_is_erased_in_the_place_of_the_word():
    """The step with it is the step on a text that holds it; a row without one keeps its word."""
    inputs = Inputs()
    batch, state = inputs.lower(), inputs.state()
    inversions_MND = inputs.array(3, 2, SMALL.joint_attention_dim)
    t5_BTD = batch.text.t5_BTD.at[1, jnp.array([1, 2])].set(inversions_MND[2])
    by_hand = batch.replace(text=batch.text.replace(t5_BTD=t5_BTD))
    inverted = batch.replace(inversion_B=jnp.array([-1, 2]))
    s = settings(attn=1.0)
    want, want_terms = step(lower_step, state, by_hand, s)
    got, terms = step(lower_step, state.replace(inversions_MND=inversions_MND), inverted, s)
    for a, b in zip(
        jax.tree.leaves((got.lora, got.pool_PSC, terms)),
        jax.tree.leaves((want.lora, want.pool_PSC, want_terms)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    plain, _ = step(lower_step, state, batch, s)
    assert not np.allclose(plain.pool_PSC, want.pool_PSC)
