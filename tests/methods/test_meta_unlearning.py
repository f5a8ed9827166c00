"""Meta-Unlearning's gradient is that of two places, and what it leaves is slow to relearn."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_trained as toy
from toy_steps import BASE, OPTIMISER, SIGMAS, SMALL, Inputs

from ea_jax.methods import meta_unlearning, registry
from ea_jax.methods.pictures import Pictures
from ea_jax.methods.trained import State
from ea_jax.settings import MetaUnlearningSettings

SETS = ("of_concept", "of_keep", "of_anchor")
SECTION = MetaUnlearningSettings(
    steps=1, lr=1.0, eta=1.5, keep=0.3, anchor=0.2, harm_concept=0.5, harm_keep=0.4,
    harm_anchor=0.6, clip=2.0, relearn_steps=2, relearn_lr=0.05, pictures=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def given() -> tuple[State, meta_unlearning.Batch]:
    inputs = Inputs()
    before = toy.state(inputs.array(2, 6, SMALL.in_channels))
    sets = {name: inputs.pictures(2) for name in SETS}
    batch = meta_unlearning.Batch(**toy.places(1, inputs), empty=inputs.text(2), **sets)
    return before, batch


@functools.cache
def program(section: MetaUnlearningSettings = SECTION, optimiser: Any = OPTIMISER) -> Any:
    bound = functools.partial(
        meta_unlearning.train_step,
        section=section,
        t_draw="sampler",
        forward=toy.FORWARD,
        optimiser=optimiser,
    )
    return jax.jit(bound)


def flow(key: Any, made: Any, pictures: Pictures) -> jax.Array:
    """The flow-matching error of each picture, by hand."""
    x0, (noise_key, t_key) = pictures.latent_BSC, jax.random.split(key)
    noise = jax.random.normal(noise_key, (x0.size,)).reshape(x0.shape)
    t = jax.random.choice(t_key, jnp.array(SIGMAS[:-1]), (len(x0),))
    x = (1 - t)[:, None, None] * x0 + t[:, None, None] * noise
    return ((toy.velocity(made, x, t, pictures.text) - (noise - x0)) ** 2).mean((1, 2))


def test_the_gradient_is_the_outer_one_plus_that_after_the_fine_tune(given) -> None:
    before, batch = given
    x, t = before.pool_PSC, SIGMAS[1]
    draws = jax.random.split(jax.random.fold_in(jax.random.key(jnp.uint32(5)), 1), 6)
    frozen = [toy.velocity(None, x, t, one) for one in (batch.anchor, batch.text, batch.empty)]
    target = frozen[0] - 1.5 * (frozen[1] - frozen[2])

    def outer(made: Any) -> jax.Array:
        erased = ((toy.velocity(made, x, t, batch.text) - target) ** 2).mean()
        kept = flow(draws[1], made, batch.of_keep).mean()
        return erased + 0.3 * kept + 0.2 * flow(draws[2], made, batch.of_anchor).mean()

    def harm(made: Any) -> list[jax.Array]:
        sets = (batch.of_concept, batch.of_keep, batch.of_anchor)
        return [flow(key, made, one) for key, one in zip(draws[3:], sets, strict=True)]

    def meta(made: Any) -> jax.Array:
        concept, keep, anchor = (jnp.minimum(each, SECTION.clip).mean() for each in harm(made))
        return -(0.5 * concept + 0.4 * keep + 0.6 * anchor)

    after, adam = before.lora, optax.adam(SECTION.relearn_lr)
    moments = adam.init(after)
    for key in jax.random.split(draws[0]):
        grads = jax.grad(lambda made, key=key: flow(key, made, batch.of_concept).mean())(after)
        updates, moments = adam.update(grads, moments)
        after = optax.apply_updates(after, updates)
    beyond = np.concatenate(harm(after)) > SECTION.clip
    assert 0 < beyond.sum() < len(beyond)

    end, terms = program()(before, BASE, batch)
    grads = [jax.jit(jax.grad(f))(at) for f, at in ((outer, before.lora), (meta, after))]
    toy.close(end.lora, jax.tree.map(lambda a, *g: a - sum(g), before.lora, *grads))
    assert float(terms["total"]) == pytest.approx(float(outer(before.lora) + meta(after)), rel=1e-4)


def test_the_fine_tune_learns_the_pictures(given) -> None:
    before, batch = given
    section = dataclasses.replace(SECTION, relearn_steps=40, relearn_lr=0.01)
    after = relearned(before.lora, batch.of_concept, section)
    fresh = jax.random.key(9)
    found = [float(flow(fresh, made, batch.of_concept).mean()) for made in (before.lora, after)]
    assert found[1] < 0.9 * found[0]


def relearned(made: Any, pictures: Pictures, section: MetaUnlearningSettings) -> Any:
    bound = functools.partial(
        meta_unlearning.relearned, section=section, t_draw="sampler", forward=toy.FORWARD
    )
    return jax.jit(bound)(jax.random.key(7), made, BASE, pictures)


def test_a_row_that_fills_up_changes_nothing(given) -> None:
    before, batch = given
    weight_B = jnp.array([1.0, 0.0])
    first = batch.replace(
        weight_B=weight_B,
        **{name: getattr(batch, name).replace(weight_B=weight_B) for name in SETS},
    )
    last = lambda x: x.at[1].add(1.0)  # noqa: E731
    parts = ("latent_BSC", "text")
    second = first.replace(
        **{name: jax.tree.map(last, getattr(first, name)) for name in ("text", "anchor", "empty")},
        **{
            name: getattr(first, name).replace(
                **{part: jax.tree.map(last, getattr(getattr(first, name), part)) for part in parts}
            )
            for name in SETS
        },
    )
    ends = [program()(before, BASE, one)[0] for one in (first, second)]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    np.testing.assert_array_equal(ends[0].pool_PSC[1], before.pool_PSC[1])


def test_each_set_is_shown_with_the_prompts_that_made_it() -> None:
    made = toy.ready("meta_unlearning")
    (level,) = registry.chosen(made.settings).make(made).levels
    groups = {"of_concept": "plain", "of_keep": "preserve", "of_anchor": "anchor"}
    for name, group in groups.items():
        some = made.pictures[name.removeprefix("of_")]
        seen = []
        for step in range(len(some.number_P) // 2):
            pictures = getattr(level.batch(step), name)
            numbers = pictures.latent_BSC[:, 0, 0].astype(int)
            seen += numbers.tolist()
            jax.tree.map(
                np.testing.assert_array_equal, pictures.text, made.bank.text(group, numbers)
            )
        assert sorted(seen) == sorted(some.number_P)


def test_without_prompts_to_keep_nothing_is_prepared() -> None:
    made = toy.ready("meta_unlearning").bank
    none = dataclasses.replace(made.groups["preserve"], prompt_G=np.array([], np.int32))
    bank = dataclasses.replace(made, groups={**made.groups, "preserve": none})
    with pytest.raises(ValueError, match=r"pictures of concept\.preserve_prompts, and there are"):
        meta_unlearning.require_kept(bank)
