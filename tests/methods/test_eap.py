"""EAP's loss is its equation in pictures, and its search finds the prompt that suffers most."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_trained as toy
from toy_steps import BASE, OPTIMISER, SIGMAS, SMALL, Inputs, T

from ea_jax.flux.transformer import Text
from ea_jax.methods import eap, pool
from ea_jax.settings import EapSettings

WORDS = 5
SECTION = EapSettings(
    steps=1, lr=1.0, eta=1.5, words=WORDS, temperature=2.0, searches=0, search_lr=0.05
)


@pytest.fixture(scope="module")
def given() -> tuple[eap.State, eap.Batch]:
    inputs = Inputs()
    x_BSC = inputs.array(2, 6, SMALL.in_channels)
    logits_K = jnp.zeros(WORDS)
    before = eap.State(
        **vars(toy.state(x_BSC)),
        logits_K=logits_K,
        search=optax.adam(SECTION.search_lr).init(logits_K),
    )
    # Not far from each other: a gradient sees how the loss changes on a short way.
    first_TD = inputs.array(T, SMALL.joint_attention_dim)
    words_KTD = first_TD + 0.5 * inputs.array(WORDS, T, SMALL.joint_attention_dim)
    return before, eap.Batch(**toy.places(1, inputs), words_KTD=words_KTD)


def gumbels(batch: eap.Batch, turns: int) -> jax.Array:
    key = jax.random.fold_in(jax.random.key(batch.seed), 1)
    return jax.random.gumbel(key, (2, turns, WORDS)).swapaxes(0, 1)


def test_the_loss_is_the_equation(given) -> None:
    before, batch = given
    x, t = before.pool_PSC, SIGMAS[1]
    words_B = gumbels(batch, 1)[0].argmax(-1)
    assert words_B[0] != words_B[1]
    adversary = Text(batch.words_KTD[words_B], batch.anchor.pooled_BD)

    def picture(made, text):
        return x - t * toy.velocity(made, x, t, text)

    anchor, concept = (picture(None, text) for text in (batch.anchor, batch.text))
    target, kept = anchor - 1.5 * (concept - anchor), picture(None, adversary)

    def loss(made):
        erased = ((picture(made, batch.text) - target) ** 2).mean()
        return erased + ((picture(made, adversary) - kept) ** 2).mean()

    program = functools.partial(
        eap.train_step, section=SECTION, forward=toy.FORWARD, optimiser=OPTIMISER
    )
    after, terms = jax.jit(program)(before, BASE, batch)
    assert float(terms["total"]) == pytest.approx(float(loss(before.lora)), rel=1e-5)
    assert float(terms["total"]) == pytest.approx(float(terms["erase"] + terms["adversarial"]))
    toy.close(after.lora, toy.descended(before, loss))
    np.testing.assert_array_equal(after.logits_K, before.logits_K)


def test_the_search_raises_the_loss_that_it_ascends(given) -> None:
    """The loss to be expected of a choice: that of each word, times how often it is chosen."""
    before, batch = given
    here = pool.place(before.pool_PSC, batch, toy.FORWARD, jnp.float32)

    @jax.jit
    def harm_of(word):
        t5_BTD = jnp.repeat(batch.words_KTD[word][None], 2, axis=0)
        text = Text(t5_BTD, batch.anchor.pooled_BD)
        return eap.adversarial_loss(before.lora, BASE, batch, here, text, toy.FORWARD)

    harm_K = np.array([harm_of(word) for word in range(WORDS)])
    ascend = functools.partial(eap.ascended, section=SECTION, forward=toy.FORWARD)
    after = jax.jit(ascend)(before, BASE, batch, here, gumbels(batch, 60))
    expected = [float(jax.nn.softmax(state.logits_K) @ harm_K) for state in (before, after)]
    assert expected[1] > expected[0] + 0.1 * (harm_K.max() - expected[0])
    jax.tree.map(np.testing.assert_array_equal, after.lora, before.lora)


def test_a_choice_is_hard_and_its_gradient_is_that_of_the_softmax(given) -> None:
    _, batch = given
    gumbel_BK = gumbels(batch, 1)[0]
    choose = functools.partial(eap.chosen, batch=batch, temperature=2.0)
    text = choose(jnp.zeros(WORDS), gumbel_BK)
    np.testing.assert_allclose(text.t5_BTD, batch.words_KTD[gumbel_BK.argmax(-1)], atol=1e-6)
    np.testing.assert_array_equal(text.pooled_BD, batch.anchor.pooled_BD)

    def soft(logits_K):
        return jnp.tensordot(jax.nn.softmax((logits_K + gumbel_BK) / 2.0), batch.words_KTD, 1)

    found = jax.jacobian(lambda logits: choose(logits, gumbel_BK).t5_BTD)(jnp.zeros(WORDS))
    np.testing.assert_allclose(found, jax.jacobian(soft)(jnp.zeros(WORDS)), atol=1e-5)


def test_the_nearest_prompts_are_those_with_the_concepts_own_direction() -> None:
    made = toy.ready("eap").bank
    own_D = made.outputs("plain", made.plain()).mean(0)
    group = made.groups["preserve"].prompt_G
    t5_UTD = made.t5_UTD.astype(np.float32)
    away_D = np.ones_like(own_D)
    # One token of each prompt is the concept's, more of it in some than in others; the length of
    # an output says nothing.
    for number, share in zip(group, (0.2, 0.9, 0.0, 0.6), strict=True):
        t5_UTD[number] *= 0.01
        t5_UTD[number, 1] = 3 * (share * own_D - (1 - share) * away_D)
    bank = dataclasses.replace(made, t5_UTD=t5_UTD)
    assert eap.nearest(bank, 2).tolist() == [1, 3]
    assert sorted(eap.nearest(bank, 50).tolist()) == [0, 1, 2, 3]


def test_without_prompts_to_keep_nothing_is_prepared() -> None:
    made = toy.ready("eap").bank
    none = dataclasses.replace(made.groups["preserve"], prompt_G=np.array([], np.int32))
    bank = dataclasses.replace(made, groups={**made.groups, "preserve": none})
    with pytest.raises(ValueError, match=r"concept\.preserve_prompts at each step, and there are"):
        eap.require_words(bank)
