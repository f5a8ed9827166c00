"""CA's two losses are their equations, on pictures of the anchors that they are shown with."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_trained as toy
from test_inversions import BALL
from toy_steps import BASE, OPTIMISER, SIGMAS, SMALL, Inputs

from ea_jax.methods import ca, pictures, registry
from ea_jax.methods.method import Needs
from ea_jax.runtime.mesh import make_mesh

KEEP = 0.3


@pytest.mark.parametrize("form", ["model", "noise"])
def test_the_loss_is_the_equation(form: str) -> None:
    inputs = Inputs()
    x0 = inputs.array(2, 6, SMALL.in_channels)
    batch = ca.Batch(x0, inputs.text(2), inputs.text(2), jnp.ones(2), jnp.uint32(5))
    before = toy.state()
    draws = []
    for key in jax.random.split(jax.random.key(jnp.uint32(5))):
        noise_key, t_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, (x0.size,)).reshape(x0.shape)
        t = jax.random.choice(t_key, jnp.array(SIGMAS[:-1]), (2,))
        draws.append((noise, t, (1 - t)[:, None, None] * x0 + t[:, None, None] * noise))
    (n, t, x), (n_2, t_2, x_2) = draws
    towards = {"model": toy.velocity(before.lora, x, t, batch.anchor), "noise": n - x0}[form]

    def loss(made, keep=KEEP):
        concept = toy.velocity(made, x, t, batch.text)
        anchor = toy.velocity(made, x_2, t_2, batch.anchor)
        return ((concept - towards) ** 2).mean() + keep * ((anchor - (n_2 - x0)) ** 2).mean()

    program = functools.partial(
        ca.train_step,
        target={"model": ca.model_target, "noise": ca.noise_target}[form],
        keep=KEEP,
        t_draw="sampler",
        forward=toy.FORWARD,
        optimiser=OPTIMISER,
    )
    after, terms = jax.jit(program)(before, BASE, batch)
    assert float(terms["total"]) == pytest.approx(float(loss(before.lora)), rel=1e-5)
    assert float(terms["ca"]) == pytest.approx(float(loss(before.lora, 0.0)), rel=1e-5)
    # The anchor's side of the model-based form has no gradient.
    toy.close(after.lora, toy.descended(before, loss))


def test_a_picture_comes_with_its_anchor_and_the_sentence_that_holds_the_concept() -> None:
    made = toy.ready("ca_model")
    numbers = made.pictures["anchor"].number_P
    counts = np.bincount(numbers, minlength=len(made.bank.rows()))
    assert set(counts) == {made.settings.ca.pictures // len(made.bank.rows())}
    (level,) = registry.chosen(made.settings).make(made).levels
    seen = []
    for step in range(len(numbers) // 2):
        batch = level.batch(step)
        rows = batch.latent_BSC[:, 0, 0].astype(int)
        seen += rows.tolist()
        for name, group in (("text", "target"), ("anchor", "anchor")):
            jax.tree.map(
                np.testing.assert_array_equal, getattr(batch, name), made.bank.text(group, rows)
            )
    assert sorted(seen) == sorted(numbers)
    texts = zip(made.bank.texts("target"), made.bank.texts("anchor"), strict=True)
    assert all(target.replace("soccer ball", "cloud") == anchor for target, anchor in texts)


def test_a_batch_is_filled_up_to_be_shared() -> None:
    mesh = make_mesh({"data": 4}, jax.devices()[:4])
    made = toy.ready("ca_noise", mesh, batch=1)
    (level,) = registry.chosen(made.settings).make(made).levels
    assert level.batch(0).weight_B.tolist() == [1, 0, 0, 0]


def test_every_sentence_of_every_concept_gets_its_pictures() -> None:
    """Fewer pictures than rows, and sentences in turn."""
    concepts = [BALL, dataclasses.replace(BALL, word="helmet", prompts=("a {}", "a photo of a {}"))]
    bank = toy.ready("ca_model", concepts=concepts).bank
    wanted = Needs(anchor=3)
    number_P = pictures.blank(bank, wanted, toy.ready("ca_model").settings, (6, 4))[
        "anchor"
    ].number_P
    assert bank.concept_G[number_P].tolist() == [0, 0, 0, 1, 1, 1]
    assert bank.sentence_G[number_P].tolist()[3:] == [0, 1, 0]
