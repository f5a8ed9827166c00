"""Meta-Unlearning (Gao et al. 2024, "Meta-Unlearning on Diffusion Models: Preventing Relearning
Unlearned Concepts"), for flow matching.

    outer(theta) = ESD + .1 FM(D_irt) + .01 FM(D_tgt)
    meta(theta') = - [.1 FM(D_hrm) + .1 FM(D_tgt) + .01 FM(D_irt)]
    gradient     = d outer(theta) + d meta(theta')

theta are the adapters, and theta' those that a short fine-tune on D_hrm makes of them, as somebody
would who wants the concept back. What is near to the concept is to break there, so that little is
left to relearn it from. The gradient at theta' is taken for one at theta: first order.

FM is the flow-matching loss of noised pictures under their own prompts, here in the place of the
loss of a diffusion model. All pictures are the frozen model's: D_hrm of the concept's sentences,
D_irt of prompts to keep (`concept.preserve_prompts`). For D_tgt, benign and related, the paper has
pictures of a hand-picked word ("skin" for nudity); ours are of what is nearest to the concept
(`concept.near_prompts`), or where nothing near to any word is known, of the anchors
(`concept.anchor`; the preset puts a neutral word in the concept's place). ESD is that of
`ea_jax.methods.esd`, at the run's guidance.

Ours as well: the fine-tune is Adam from a fresh state, on one batch of pictures that is noised anew
at every step; and a picture's error at theta' counts up to `clip` and has no gradient beyond, since
nothing else would bound a loss that is pushed up.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from ea_jax.concepts.bank import PromptBank
from ea_jax.flux.transformer import Text, Weights, dtype_of
from ea_jax.methods import esd, losses, pool
from ea_jax.methods.forward import Forward, velocity_of
from ea_jax.methods.method import Method, Needs, Terms
from ea_jax.methods.optimisers import update
from ea_jax.methods.pictures import LatentSet, Pictures, in_turn
from ea_jax.methods.ready import Ready
from ea_jax.methods.trained import State, descend, trained
from ea_jax.methods.trajectories import drawn
from ea_jax.runtime.mesh import batch_parts
from ea_jax.settings import MetaUnlearningSettings, Settings

_STREAMS = {"concept": 501, "keep": 502, "related": 503}  # of the sets of pictures


class Batch(esd.Batch):
    """Places in the pool with their prompts, and as many pictures of each set.

    Attributes:
      of_concept, of_keep, of_related: D_hrm, D_irt and D_tgt.
    """

    of_concept: Pictures
    of_keep: Pictures
    of_related: Pictures


class Rows(struct.PyTreeNode):
    """What a student is asked, x_t, t and a prompt, and the velocity that it should answer."""

    x_BSC: jax.Array
    t_B: jax.Array
    text: Text
    target_BSC: jax.Array


def needs(settings: Settings) -> Needs:
    """Pictures of the concept, of prompts to keep, and of what is nearest or the anchors."""
    count = settings.meta_unlearning.pictures
    return Needs(concept=True, keep=True, related=count, check=require_kept)


def require_kept(bank: PromptBank) -> None:
    """Raises ValueError if there is no prompt to keep besides those about what is nearest."""
    if len(bank.groups["preserve"].prompt_G) == bank.near:
        raise ValueError(
            "meta_unlearning keeps pictures of concept.preserve_prompts, and there are none; "
            "give some"
        )


def make(ready: Ready) -> Method:
    """The method of a run."""
    settings, paths = ready.settings, pool.Paths.of(ready)
    section, parts = settings.meta_unlearning, batch_parts(ready.mesh)

    sets = sets_of(ready)

    def of(name: str, step: int) -> Pictures:
        group, some, own = sets[name]
        size, seed = settings.optim.batch, settings.optim.seed
        picked = in_turn(len(own), size, step, seed=seed, purpose=_STREAMS[name])
        return some.batch(own[picked], functools.partial(ready.bank.text, group), parts)

    def batch(step: int) -> Batch:
        pictures: dict[str, Any] = {f"of_{name}": of(name, step) for name in sets}
        return Batch(**esd.fields(paths, step), **pictures)

    return trained(
        ready,
        functools.partial(
            train_step, section=section, t_draw=settings.loss.t_draw, forward=ready.forward
        ),
        batch,
        name="meta_unlearning",
        steps=section.steps,
        lr=section.lr,
        paths=paths,
    )


def sets_of(ready: Ready) -> dict[str, tuple[str, LatentSet, np.ndarray]]:
    """D_hrm, D_irt and D_tgt: the bank's group of their prompts, pictures, and which of these."""
    bank, concept, kept = ready.bank, ready.pictures["concept"], ready.pictures["keep"]
    is_near = kept.number_P >= len(bank.groups["preserve"].prompt_G) - bank.near
    every = lambda some: np.arange(len(some.number_P))  # noqa: E731
    related = ("preserve", kept, np.flatnonzero(is_near))
    if not bank.near:
        anchors = ready.pictures["anchor"]
        related = ("anchor", anchors, every(anchors))
    return {
        "concept": ("plain", concept, every(concept)),
        "keep": ("preserve", kept, np.flatnonzero(~is_near)),
        "related": related,
    }


def noised_rows(
    key: jax.Array, pictures: Pictures, *, t_draw: str, forward: Forward, dtype: Any
) -> Rows:
    """Pictures at noise levels of their own, under their prompts: the mean error there is FM."""
    noise_key, t_key = jax.random.split(key)
    seen = drawn(
        noise_key,
        t_key,
        pictures.latent_BSC,
        how=t_draw,
        sigmas=forward.sigmas,
        dtype=dtype,
    )
    return Rows(seen.x_BSC, seen.t_B, pictures.text, seen.velocity_BSC)


def errors(adapters: Any, base: Weights, rows: Rows, forward: Forward) -> jax.Array:
    """How far a student's answers are from what they should be, [B] float32."""
    with jax.named_scope("student"):
        v, _ = velocity_of(base, adapters, rows.x_BSC, rows.t_B, rows.text, forward)
    return losses.velocity_error(v, rows.target_BSC)


def relearned(
    key: jax.Array,
    adapters: Any,
    base: Weights,
    pictures: Pictures,
    *,
    section: MetaUnlearningSettings,
    t_draw: str,
    forward: Forward,
) -> Any:
    """theta': what a short fine-tune on these pictures makes of the adapters."""
    optimiser = optax.adam(section.relearn_lr)

    def one(carry: Any, key: jax.Array) -> tuple[Any, None]:
        rows = noised_rows(key, pictures, t_draw=t_draw, forward=forward, dtype=dtype_of(base))

        def loss(adapters: Any) -> jax.Array:
            return losses.mean_of(errors(adapters, base, rows, forward), pictures.weight_B)

        now, opt_state = carry
        return update(now, jax.grad(loss)(now), opt_state, optimiser), None

    keys = jax.random.split(key, section.relearn_steps)
    with jax.named_scope("relearn"):
        (after, _), _ = jax.lax.scan(one, (adapters, optimiser.init(adapters)), keys)
    return after


def train_step(
    state: State,
    base: Weights,
    batch: Batch,
    *,
    section: MetaUnlearningSettings,
    t_draw: str,
    forward: Forward,
    optimiser: optax.GradientTransformation,
) -> tuple[State, Terms]:
    """One update by the gradient above, and the paths one step on.

    Returns:
      The new state; each term at theta and, as `relearned_...`, at theta' (unweighted, and not
      clipped), the weighted sum and the gradient's norm, float32.
    """
    asked = functools.partial(noised_rows, t_draw=t_draw, forward=forward, dtype=dtype_of(base))
    here = pool.place(state.pool_PSC, batch, forward, dtype_of(base))
    target, concept = esd.targets(base, batch, here, eta=section.eta, forward=forward)
    # Other keys than the paths' noise has.
    relearn_key, *keys = jax.random.split(jax.random.fold_in(jax.random.key(batch.seed), 1), 6)
    outer = _joined(
        Rows(here.x_BSC, here.t_B, batch.text, target),
        asked(keys[0], batch.of_keep),
        asked(keys[1], batch.of_related),
    )
    harmed = _joined(
        asked(keys[2], batch.of_concept),
        asked(keys[3], batch.of_keep),
        asked(keys[4], batch.of_related),
    )
    after = relearned(
        relearn_key,
        state.lora,
        base,
        batch.of_concept,
        section=section,
        t_draw=t_draw,
        forward=forward,
    )
    # The way to theta' is held: its gradient by theta is then that by theta'.
    way = jax.tree.map(jnp.subtract, after, state.lora)

    def loss(adapters: Any) -> tuple[jax.Array, Terms]:
        error_3B = errors(adapters, base, outer, forward)
        harm_3B = errors(jax.tree.map(jnp.add, adapters, way), base, harmed, forward)
        esd_term, keep, related = _means(error_3B, batch)
        concept_up, keep_up, related_up = _means(jnp.minimum(harm_3B, section.clip), batch)
        total = esd_term + section.keep * keep + section.related * related
        total -= section.harm_concept * concept_up + section.harm_related * related_up
        total -= section.harm_keep * keep_up
        names = ("relearned_concept", "relearned_keep", "relearned_related")
        terms = dict(zip(names, _means(harm_3B, batch), strict=True))
        return total, {"esd": esd_term, "keep": keep, "related": related, **terms, "total": total}

    state, terms = descend(state, loss, optimiser)
    return state.replace(pool_PSC=pool.walked(state.pool_PSC, batch, here, concept)), terms


def _joined(*some: Rows) -> Rows:
    return jax.tree.map(lambda *each: jnp.concatenate(each), *some)


def _means(error_3B: jax.Array, batch: Batch) -> list[jax.Array]:
    """The mean over each third of the rows; all thirds are filled up alike."""
    return [losses.mean_of(error_B, batch.weight_B) for error_B in jnp.split(error_3B, 3)]
