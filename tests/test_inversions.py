"""The search for embeddings that paint a concept, on a small random model, and their rows."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_steps import BASE, SMALL, settings
from toy_t5 import t5_tokenizer

from configs import soccer
from ea_jax import settings as sections
from ea_jax.concepts import bank, rows
from ea_jax.flux.attention import Columns
from ea_jax.flux.transformer import Text, velocity
from ea_jax.methods import inversions
from ea_jax.methods.pictures import Album
from ea_jax.runtime.mesh import make_mesh
from ea_jax.runtime.metrics import NonFiniteError

LENGTH = 8
BALL = rows.Concept(
    "soccer ball", ("a {} beside a dog", "a photo of a {}"), ("football",), (("cloud",),)
)
GRID = (2, 3)


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
        [BALL, dataclasses.replace(BALL, word="football", synonyms=())],
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


def search(made, mesh=None, latent=1.0, **data):
    rng = np.random.default_rng(0)
    numbers = np.resize(made.plain(concept=0), 4)
    latent_PSC = latent * rng.standard_normal((4, 6, SMALL.in_channels), np.float32)
    mesh = mesh or {"data": 1, "fsdp": 1, "tensor": 1}
    return inversions.search(
        BASE,
        made,
        Album(latent_PSC, numbers, list(range(4))),
        settings=experiment(**data),
        steps=settings(grid=GRID),
        mesh=make_mesh(mesh),
        fingerprint="random",
    )


def miss(made, e_ND) -> float:
    """Error of the frozen model's velocity under an embedding, against that under the word."""
    rng = np.random.default_rng(1)
    x_BSC = jnp.asarray(rng.standard_normal((2, 6, SMALL.in_channels)), jnp.float32)
    numbers = made.plain(concept=0)[:2]
    text, columns = made.text("plain", numbers), made.columns("plain", numbers)

    def v(t5_BTD):
        given = Text(jnp.asarray(t5_BTD, jnp.float32), jnp.asarray(text.pooled_BD, jnp.float32))
        full = jnp.full(2, 3.5)
        return velocity(BASE, SMALL, x_BSC, full / 4, given, grid=GRID, guidance_B=full)[0]

    e_BND = jnp.broadcast_to(jnp.asarray(e_ND), (2, *e_ND.shape))
    swapped = inversions.place(jnp.asarray(text.t5_BTD), columns, e_BND)
    return float(jnp.square(v(swapped) - v(text.t5_BTD)).mean())


def test_embeddings_take_the_places_of_the_concepts_tokens_and_no_others():
    t5_BTD = jnp.arange(10.0).reshape(1, 5, 2)
    columns = Columns(jnp.array([[3, 1, 4, 0]]), jnp.array([[True, True, True, False]]))
    e_BND = jnp.array([[[-1.0, -1.0], [-2.0, -2.0]]])
    placed = np.asarray(inversions.place(t5_BTD, columns, e_BND))[0]
    np.testing.assert_array_equal(placed[:, 0], [0, -2, 4, -1, -1])


def test_what_is_found_paints_like_the_word_and_is_not_the_word(made):
    started = search(made, inversion_steps=1, inversion_rate=1e-6)
    found = search(made, inversion_steps=150, inversion_rate=0.2)
    assert found.shape == (3, 2, SMALL.joint_attention_dim)
    ratios = [miss(made, e) / miss(made, start) for e, start in zip(found, started, strict=True)]
    assert max(ratios) < 0.6
    numbers = made.plain(concept=0)[:1]
    text, columns = made.text("plain", numbers), made.columns("plain", numbers)
    own = text.t5_BTD[0].astype(np.float32)[columns.idx_BN[0, :2]]
    for e in found:
        apart = np.linalg.norm(e - own, axis=-1) / np.linalg.norm(own, axis=-1)
        assert apart.min() > 0.3


def test_an_inversion_does_not_depend_on_those_searched_beside_it(made):
    one, three = search(made, inversions=1), search(made, inversions=3)
    np.testing.assert_allclose(one[0], three[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(three[0], three[1], atol=0.1)


def test_devices_share_a_search(made):
    alone = search(made, inversion_steps=3)
    shared = search(made, {"data": 4, "fsdp": 2, "tensor": 1}, inversion_steps=3)
    np.testing.assert_allclose(shared, alone, rtol=1e-3, atol=1e-4)


def test_a_second_run_reads_what_the_first_one_found(made, tmp_path, caplog):
    caplog.set_level("INFO")
    first = search(made, cache=str(tmp_path), inversion_steps=2)
    second = search(made, cache=str(tmp_path), inversion_steps=2)
    assert "read 3 inversions from" in caplog.text
    np.testing.assert_array_equal(first, second)
    other = search(made, cache=str(tmp_path), inversion_steps=3)
    assert not np.array_equal(other, second)


def test_a_search_among_pictures_that_are_no_numbers_stops(made):
    with pytest.raises(NonFiniteError, match=r"inversion_rate = 0\.5, or set data\.inversions=0"):
        search(made, inversion_steps=1, latent=np.nan)


def test_rows_of_the_word_come_again_part_inversion_part_word(made):
    rng = np.random.default_rng(2)
    found = rng.standard_normal((3, 2, SMALL.joint_attention_dim)).astype(np.float32)
    more = inversions.with_inversions(made, found, seed=0)
    own, count = made.rows(concept=0), len(made.rows())
    assert len(more.rows()) == count + len(own)
    assert more.digest != made.digest
    taken = []
    for place, row in enumerate(own):
        text, columns = more.text("un", [count + place]), more.columns("un", [count + place])
        before = made.text("un", [row])
        t5_TD, word_TD = (x.t5_BTD[0].astype(np.float32) for x in (text, before))
        at = columns.idx_BN[0][columns.mask_BN[0]]
        elsewhere = np.delete(np.arange(LENGTH), at)
        np.testing.assert_array_equal(t5_TD[elsewhere], word_TD[elsewhere])
        np.testing.assert_array_equal(text.pooled_BD, before.pooled_BD)
        # One of the inversions and the word make up each token of the row.
        misses = []
        for e in found:
            fits = [
                np.linalg.lstsq(np.stack([e[n], word_TD[token]], 1), t5_TD[token])
                for n, token in enumerate(at)
            ]
            misses.append(sum(float(residual[0]) for _, residual, *_ in fits))
        taken.append(int(np.argmin(misses)))
        assert min(misses) < 0.01 * np.square(t5_TD[at]).sum()
        assert int(more.sentence_R[count + place]) == int(made.sentence_R[row])
        for a, b in zip(
            jax.tree.leaves(more.text("anchor", [count + place])),
            jax.tree.leaves(made.text("anchor", [row])),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    # Two sentences, and each time round they meet another inversion.
    assert taken == [0, 1, 0, 1]
    # L_rsc draws from rows with synonyms, and these have none.
    np.testing.assert_array_equal(more.contrast_rows(), made.contrast_rows())
