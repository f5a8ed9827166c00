"""EAP (Bui et al. 2024, "Erasing Undesirable Concepts in Diffusion Models with Adversarial
Preservation"), for flow matching.

    L = || x0(c) - (x0_base(a) - eta (x0_base(c) - x0_base(a))) ||^2 + || x0(c') - x0_base(c') ||^2

x0(.) = x_t - t v(x_t, .) is the picture that a velocity leads to, so both terms are t^2 times an
error of velocities. The first is ESD's, with the anchor a (`concept.anchor`; the paper's is the
empty prompt) in the place of the empty prompt as well. The second keeps what the erasure does most
harm to: the adversarial prompt c', which is searched for anew at every step.

c' is a hard choice among k prompts by Gumbel-softmax: the largest of (logits + Gumbel noise) /
temperature, with the gradient of their softmax. The logits go with the state from step to step;
before each descent they ascend the second term, by Adam, since its gradient is far too small for
plain steps. Each row of a batch draws its own noise.

The k prompts are those to keep (`concept.preserve_prompts`) that are nearest to the concept: the
list is open, broad, and free of the concept and of words that measure its erasure. A prompt is as
near as its nearest token, by the cosine of T5's outputs less their mean. Where several concepts are
erased they take turns to name one. c' has T5's outputs of its own, and the anchor's pooled vector.
The k outputs travel with each batch: 105 MB for 50 prompts of 256 tokens at FLUX.1-dev's width.

x_t is on the frozen model's own path for c.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ea_jax.concepts.bank import PromptBank
from ea_jax.flux.transformer import Text, Weights, dtype_of
from ea_jax.methods import losses, pool
from ea_jax.methods.forward import Forward, velocity_of
from ea_jax.methods.method import Method, Needs, Terms
from ea_jax.methods.ready import Ready
from ea_jax.methods.trained import State as Trained
from ea_jax.methods.trained import descend, trained
from ea_jax.settings import EapSettings, Settings


class State(Trained):
    """What is trained, and the search's logits [K] in float32 with Adam's state."""

    logits_K: jax.Array
    search: optax.OptState


class Batch(pool.Batch):
    """Places in the pool and their prompts; `words_KTD`: T5's outputs to choose c' from."""

    words_KTD: jax.Array


def needs(settings: Settings) -> Needs:
    """Prompts and weights, some of the prompts without the concept."""
    del settings
    return Needs(check=require_words)


def require_words(bank: PromptBank) -> None:
    """Raises ValueError if there is no prompt to choose from."""
    if not len(bank.groups["preserve"].prompt_G):
        raise ValueError(
            "eap keeps one of concept.preserve_prompts at each step, and there are none; give some"
        )


def make(ready: Ready) -> Method:
    """The method of a run."""
    section, paths = ready.settings.eap, pool.Paths.of(ready)
    words_KTD = ready.bank.text("preserve", nearest(ready.bank, section.words)).t5_BTD

    def state(*shared: Any) -> State:
        logits_K = jnp.zeros(len(words_KTD), jnp.float32)
        search = _search(section).init(logits_K)
        return State(*shared, logits_K=logits_K, search=search)

    return trained(
        ready,
        functools.partial(train_step, section=section, forward=ready.forward),
        lambda step: Batch(**paths.fields(step), words_KTD=words_KTD),
        name="eap",
        steps=section.steps,
        lr=section.lr,
        paths=paths,
        state=state,
    )


def nearest(bank: PromptBank, count: int) -> np.ndarray:
    """Numbers of the prompts to keep that are nearest to the concepts, each the next of its own.

    Args:
      bank: encoded prompts.
      count: how many; all, if there are fewer.
    """
    mean_D = bank.t5_UTD[bank.text_mask_UT].astype(np.float32).mean(0)

    def directions(x_ND: np.ndarray) -> np.ndarray:
        x_ND = x_ND.astype(np.float32) - mean_D
        return x_ND / np.maximum(np.linalg.norm(x_ND, axis=-1, keepdims=True), 1e-12)

    own = [bank.outputs("plain", bank.plain(concept=c)).mean(0) for c in range(bank.concepts)]
    own_CD = directions(np.stack(own))
    prompts = bank.groups["preserve"].prompt_G
    near_GC = np.stack(
        [
            (directions(bank.t5_UTD[u][bank.text_mask_UT[u]]) @ own_CD.T).max(0, initial=-1.0)
            for u in prompts
        ]
    )
    by_rank = np.argsort(-near_GC, axis=0, kind="stable").reshape(-1)
    return np.array(list(dict.fromkeys(by_rank.tolist()))[:count])


def _search(section: EapSettings) -> optax.GradientTransformation:
    return optax.adam(section.search_lr)


def chosen(logits_K: jax.Array, gumbel_BK: jax.Array, batch: Batch, *, temperature: float) -> Text:
    """The adversarial prompt of each row: a hard choice, with the gradient of a soft one."""
    soft_BK = jax.nn.softmax((logits_K + gumbel_BK) / temperature)
    hard_BK = jax.nn.one_hot(soft_BK.argmax(-1), soft_BK.shape[-1])
    choice_BK = hard_BK + soft_BK - jax.lax.stop_gradient(soft_BK)
    words_KTD = batch.words_KTD.astype(jnp.float32)
    t5_BTD = jnp.einsum("bk,ktd->btd", choice_BK, words_KTD, precision="highest")
    return Text(t5_BTD.astype(batch.words_KTD.dtype), batch.anchor.pooled_BD)


def adversarial_loss(
    adapters: Any, base: Weights, batch: Batch, here: pool.Place, text: Text, forward: Forward
) -> jax.Array:
    """Second term of the loss: how far adapters take the picture of these prompts."""
    v, _ = velocity_of(base, adapters, here.x_BSC, here.t_B, text, forward)
    kept, _ = velocity_of(base, None, here.x_BSC, here.t_B, text, forward)
    return picture_error(v, kept, batch, here)


def picture_error(
    v_BSC: jax.Array, target_BSC: jax.Array, batch: Batch, here: pool.Place
) -> jax.Array:
    """|| x0 - x0' ||^2 of two velocities at one place, the mean over what counts."""
    squares_B = jnp.square(here.t_B.astype(jnp.float32))
    return losses.mean_of(squares_B * losses.velocity_error(v_BSC, target_BSC), batch.weight_B)


def ascended(
    state: State,
    base: Weights,
    batch: Batch,
    here: pool.Place,
    gumbels: jax.Array,
    *,
    section: EapSettings,
    forward: Forward,
) -> State:
    """The state, its logits moved up the second term: a step for each of `gumbels` [., B, K]."""

    def harm(logits_K: jax.Array, gumbel_BK: jax.Array) -> jax.Array:
        text = chosen(logits_K, gumbel_BK, batch, temperature=section.temperature)
        return -adversarial_loss(state.lora, base, batch, here, text, forward)

    def ascend(carry: Any, gumbel_BK: jax.Array) -> tuple[Any, None]:
        logits_K, search = carry
        grads = jax.grad(harm)(logits_K, gumbel_BK)
        updates, search = _search(section).update(grads, search)
        return (optax.apply_updates(logits_K, updates), search), None

    (logits_K, search), _ = jax.lax.scan(ascend, (state.logits_K, state.search), gumbels)
    return state.replace(logits_K=logits_K, search=search)


def train_step(
    state: State,
    base: Weights,
    batch: Batch,
    *,
    section: EapSettings,
    forward: Forward,
    optimiser: optax.GradientTransformation,
) -> tuple[State, Terms]:
    """The search, one update on the loss above, and the paths one step on.

    Returns:
      The new state; both terms, their sum and the gradient's norm, float32.
    """
    here = pool.place(state.pool_PSC, batch, forward, dtype_of(base))
    # Another key than the paths' noise has.
    gumbel_key = jax.random.fold_in(jax.random.key(batch.seed), 1)
    # Rows first: a row's draws then don't depend on how many rows fill up a sharded batch.
    shape = (len(batch.member_B), section.searches + 1, len(state.logits_K))
    gumbels = jax.random.gumbel(gumbel_key, shape).swapaxes(0, 1)
    with jax.named_scope("search"):
        state = ascended(state, base, batch, here, gumbels[:-1], section=section, forward=forward)
    text = chosen(state.logits_K, gumbels[-1], batch, temperature=section.temperature)
    anchor, concept, kept = pool.teachers(base, here, [batch.anchor, batch.text, text], forward)
    target = losses.erasing_target(anchor, concept, eta=section.eta)
    both = jax.tree.map(lambda *rows: jnp.concatenate(rows), batch.text, text)
    twice = jax.tree.map(lambda rows: jnp.concatenate([rows, rows]), here)

    def loss(adapters: Any) -> tuple[jax.Array, Terms]:
        with jax.named_scope("student"):
            v, _ = velocity_of(base, adapters, twice.x_BSC, twice.t_B, both, forward)
        erased, adversarial = jnp.split(v, 2)
        terms = {
            "erase": picture_error(erased, target, batch, here),
            "adversarial": picture_error(adversarial, kept, batch, here),
        }
        total = terms["erase"] + terms["adversarial"]
        return total, {**terms, "total": total}

    state, terms = descend(state, loss, optimiser)
    return state.replace(pool_PSC=pool.walked(state.pool_PSC, batch, here, concept)), terms
