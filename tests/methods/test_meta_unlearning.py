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
from ea_jax.methods.trained import State
from ea_jax.settings import MetaUnlearningSettings

SETS = ("of_concept", "of_keep", "of_related")
SECTION = MetaUnlearningSettings(
    steps=1, lr=1.0, eta=1.5, keep=0.3, related=0.2, harm_concept=0.5, harm_keep=0.4,
    harm_related=0.6, clip=2.0, relearn_steps=2, relearn_lr=0.05, pictures=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def given() -> tuple[State, meta_unlearning.Batch]:
    inputs = Inputs()
    before = toy.state(inputs.array(2, 6, SMALL.in_channels))
    sets = {name: inputs.pictures(2) for name in SETS}
    batch = meta_unlearning.Batch(**toy.places(1, inputs), empty=inputs.text(2), **sets)
    return before, batch


@functools.cache
def program(section: MetaUnlearningSettings) -> Any:
    return jax.jit(
        functools.partial(
            meta_unlearning.train_step,
            section=section,
            t_draw="sampler",
            forward=toy.FORWARD,
            optimiser=OPTIMISER,
        )
    )


@jax.jit
def seen(key: Any, x0: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pictures noised by hand: x_t, t, and what flow matching learns."""
    noise_key, t_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (x0.size,)).reshape(x0.shape)
    t = jax.random.choice(t_key, jnp.array(SIGMAS[:-1]), (len(x0),))
    return (1 - t)[:, None, None] * x0 + t[:, None, None] * noise, t, noise - x0


@jax.jit
def pulled(made: Any, at: Any, text: Any, weight_B: Any) -> tuple[jax.Array, Any]:
    """Errors of two rows by hand, and the gradient of their weighted sum."""
    x, t, target = at

    def total(made: Any) -> tuple[jax.Array, jax.Array]:
        error_B = ((toy.velocity(made, x, t, text) - target) ** 2).mean((1, 2))
        return (weight_B * error_B).sum(), error_B

    grads, error_B = jax.grad(total, has_aux=True)(made)
    return error_B, grads


class Hand:
    """A step's draws and its fine-tune, by hand; the clip lies amid the errors after that."""

    def __init__(self, before: State, batch: meta_unlearning.Batch) -> None:
        key = jax.random.fold_in(jax.random.key(jnp.uint32(5)), 1)
        first, *keys = jax.random.split(key, 6)
        kept = [batch.of_keep, batch.of_related]
        shown = [*kept, batch.of_concept, *kept]
        draws = [
            (seen(key, one.latent_BSC), one.text) for key, one in zip(keys, shown, strict=True)
        ]
        self.held, self.harmed = draws[:2], draws[2:]
        self.after, adam = before.lora, optax.adam(SECTION.relearn_lr)
        moments, concept = adam.init(self.after), batch.of_concept
        for key in jax.random.split(first):
            at = seen(key, concept.latent_BSC)
            _, grads = pulled(self.after, at, concept.text, jnp.full(2, 0.5))
            updates, moments = adam.update(grads, moments)
            self.after = optax.apply_updates(self.after, updates)
        self.errors = [
            np.asarray(pulled(self.after, *each, jnp.zeros(2))[0]) for each in self.harmed
        ]
        self.section = dataclasses.replace(SECTION, clip=float(np.median(self.errors)))


@pytest.fixture(scope="module")
def hand(given) -> Hand:
    return Hand(*given)


def test_the_gradient_is_the_outer_one_plus_that_after_the_fine_tune(given, hand) -> None:
    before, batch = given
    x, t, clip = before.pool_PSC, SIGMAS[1], hand.section.clip
    anchor, concept, empty = (
        toy.velocity(None, x, t, text) for text in (batch.anchor, batch.text, batch.empty)
    )
    erased = (x, jnp.full(2, t), anchor - 1.5 * (concept - empty)), batch.text
    grads, total = [], 0.0
    for weight, each in zip((1.0, 0.3, 0.2), (erased, *hand.held), strict=True):
        error_B, grad = pulled(before.lora, *each, jnp.full(2, weight / 2))
        grads.append(grad)
        total += weight * float(error_B.mean())
    for weight, each, error_B in zip((0.5, 0.4, 0.6), hand.harmed, hand.errors, strict=True):
        grads.append(pulled(hand.after, *each, -weight / 2 * (error_B < clip))[1])
        total -= weight * float(np.minimum(error_B, clip).mean())
    end, terms = program(hand.section)(before, BASE, batch)
    assert float(terms["total"]) == pytest.approx(total, rel=1e-4)
    toy.close(end.lora, jax.tree.map(lambda a, *g: a - sum(g), before.lora, *grads))


def test_the_fine_tune_learns_the_pictures(given) -> None:
    before, pictures = given[0], given[1].of_concept
    section = dataclasses.replace(SECTION, relearn_steps=60, relearn_lr=0.02)
    bound = functools.partial(
        meta_unlearning.relearned, section=section, t_draw="sampler", forward=toy.FORWARD
    )
    after = jax.jit(bound)(jax.random.key(7), before.lora, BASE, pictures)
    fresh = seen(jax.random.key(9), pictures.latent_BSC)
    found = [
        float(pulled(made, fresh, pictures.text, jnp.zeros(2))[0].mean())
        for made in (before.lora, after)
    ]
    assert found[1] < 0.95 * found[0]


def test_a_row_that_fills_up_changes_nothing(given, hand) -> None:
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
    ends = [program(hand.section)(before, BASE, one)[0] for one in (first, second)]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    np.testing.assert_array_equal(ends[0].pool_PSC[1], before.pool_PSC[1])


@pytest.mark.parametrize("near", [(), ("a bucket", "an old bucket")])
def test_each_set_is_shown_with_the_prompts_that_made_it(near) -> None:
    """What is related are prompts about what is nearest; anchors, where there are none."""
    made = toy.ready("meta_unlearning", near=near)
    (level,) = registry.chosen(made.settings).make(made).levels
    kept = np.arange(len(toy.KEPT))
    groups = {
        "concept": ("plain", made.pictures["concept"].number_P),
        "keep": ("preserve", kept),
        "related": ("preserve", len(kept) + np.arange(2)),
    }
    assert ("anchor" in made.pictures) == (not near)
    if not near:
        groups["related"] = ("anchor", made.pictures["anchor"].number_P)
    for name, (group, wanted) in groups.items():
        seen = []
        for step in range(len(wanted) // 2):
            pictures = getattr(level.batch(step), f"of_{name}")
            numbers = pictures.latent_BSC[:, 0, 0].astype(int)
            seen += numbers.tolist()
            jax.tree.map(
                np.testing.assert_array_equal, pictures.text, made.bank.text(group, numbers)
            )
        assert sorted(seen) == sorted(wanted)


def test_without_prompts_to_keep_nothing_is_prepared() -> None:
    made = toy.ready("meta_unlearning").bank
    none = dataclasses.replace(made.groups["preserve"], prompt_G=np.array([], np.int32))
    bank = dataclasses.replace(made, groups={**made.groups, "preserve": none})
    with pytest.raises(ValueError, match=r"pictures of concept\.preserve_prompts, and there are"):
        meta_unlearning.require_kept(bank)
