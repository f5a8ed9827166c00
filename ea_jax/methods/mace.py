"""MACE (Lu et al. 2024, "MACE: Mass Concept Erasure in Diffusion Models"), in three stages.

    1.  X_i = argmin sum_c |c X - (g - c)|^2 + keep sum_k |k X|^2 + stay |X|^2
    2.  L_i = sum over dual blocks || P[region, tokens] ||_F
    3.  D = argmin sum_i sum_x |x D - x D_i|^2 + keep sum_k |k D|^2 + stay |D|^2

1. Words around a concept tell of it too. c are inputs of the text's layers in the dual blocks at
the other words of a sentence with concept i, g those at the same words where a mapping prompt is in
the concept's place (`concept.anchor`, which has to be `replaced`), k those of prompts without it.
Q and K of the text become (I + X_i) W; in the paper it is K and V of a U-Net's cross-attention.

2. On top of that each concept trains adapters of its own, of rank 1. P is the attention that a
noised picture of the concept pays to its tokens; the region is where the frozen model looks for
them, see `regions`. A step's noise level k / 1000 is drawn where objects take their form, with a
density in proportion to sigmoid((k - 200) / 20) - sigmoid((k - 400) / 20). Concepts take turns.

3. All of them become one change D of the kernels. x are inputs in the sentences with concept i, and
D_i is what the first two stages made of it alone: X_i W plus its adapters' product.

Inputs are those of the frozen model on its own paths. At FLUX.1-dev's size each concept takes
0.7 GB of the state, and 0.7 GB of host memory for the moments of its inputs.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from ea_jax import lora
from ea_jax.concepts.bank import PromptBank
from ea_jax.edits import Edit
from ea_jax.flux import euler
from ea_jax.flux.adapters import Module
from ea_jax.flux.columns import Columns
from ea_jax.flux.transformer import Text, Weights, dtype_of
from ea_jax.methods import fusion, kernel_changes, losses, regions
from ea_jax.methods.forward import Forward, columns_of
from ea_jax.methods.layer_inputs import QUERIES_AND_KEYS, STACK
from ea_jax.methods.method import Level, Method, Needs, Terms
from ea_jax.methods.optimisers import adamw
from ea_jax.methods.pictures import FIRST_SEED, in_turn
from ea_jax.methods.ready import Ready, fresh_lora
from ea_jax.methods.trained import State as Trained
from ea_jax.methods.trained import descend
from ea_jax.methods.trajectories import noised
from ea_jax.runtime import compiler
from ea_jax.runtime.mesh import batch_parts, pad_rows, put, sharding
from ea_jax.runtime.streams import normal, stream
from ea_jax.settings import Settings, SettingsError

_PICTURE, _NOISE = 501, 502  # streams of its own


class State(struct.PyTreeNode):
    """What is found of C concepts, float32: adapters and their optimisers, stacked over concepts.

    Attributes:
      lora, optimiser: of stage 2.
      refined_CLDD: X of stage 1, by block.
      region_PS: bool, where in each of the run's pictures its concept is.
    """

    lora: Any
    optimiser: optax.OptState
    refined_CLDD: jax.Array
    region_PS: jax.Array


class Batch(struct.PyTreeNode):
    """One step's pictures of one concept.

    Attributes:
      concept: its number.
      picture_B: their numbers.
      latent_BSC: clean and packed.
      text, columns: the sentences that made them, and the concept's tokens there.
      weight_B: 1 for real rows, 0 for rows that only fill up a sharded batch.
      seed: uint32, of noises and noise levels.
    """

    concept: jax.Array
    picture_B: jax.Array
    latent_BSC: jax.Array
    text: Text
    columns: Columns
    weight_B: jax.Array
    seed: jax.Array


_WORDLESS = (
    "mace maps a sentence to the same one with another word in the concept's place, and the "
    "anchors have none; set concept.anchor=replaced"
)


def needs(settings: Settings) -> Needs:
    """Pictures of the concepts, the columns of their tokens, and mapping prompts.

    Raises:
      SettingsError: settings without a word in the concept's place; told before anything is loaded.
    """
    if settings.concept.anchor != "replaced":
        raise SettingsError(_WORDLESS)
    return Needs(concept=True, columns=True, check=require_mapping)


def require_mapping(bank: PromptBank) -> None:
    """Raises ValueError if an anchor has nothing in the concept's place."""
    if not bank.groups["anchor"].mask_GN.any(-1).all():
        raise ValueError(_WORDLESS)


def layers_of(settings: Settings, template: Any) -> list[Module]:
    """Layers that a run changes: Q and K of the text, and those of its LoRA.

    Raises:
      ValueError: a LoRA on others than the text's in the dual blocks.
    """
    found = lora.targets(settings.lora.scope, template)
    if not all(path[:2] == STACK and path[2].startswith("add_") for path in found):
        raise ValueError(
            f"lora.scope = {settings.lora.scope!r} has other layers than the text's in the dual "
            "blocks, and mace can fuse no others; use dual_qk or dual_qkv"
        )
    return sorted({*found, *QUERIES_AND_KEYS})


def blank(settings: Settings, template: Any) -> Any:
    """Adapters of the run's layers that change nothing; none where kernels change whole."""
    return kernel_changes.blank(template, layers_of(settings, template), rank=settings.mace.rank)


def make(ready: Ready) -> Method:
    """The method of a run."""
    settings, section, concepts = ready.settings, ready.settings.mace, ready.bank.concepts
    replicated = sharding(ready.mesh, ())
    optimiser = adamw(settings, section.lr, updates=section.steps)
    inputs, made = fusion.Inputs(ready, section.templates, section.times), []
    weighed = {"keep": section.keep, "stay": section.stay}

    def init(key: jax.Array) -> State:
        fresh = functools.partial(fresh_lora, settings=settings, template=ready.template)
        adapters = jax.vmap(fresh)(jax.random.split(key, concepts))
        model, pictures = ready.forward.model, ready.pictures["concept"]
        return State(
            lora=adapters,
            optimiser=jax.vmap(optimiser.init)(adapters),
            refined_CLDD=jnp.zeros((concepts, model.num_layers, model.width, model.width)),
            region_PS=jnp.zeros(pictures.latent_PSC.shape[:2], bool),
        )

    def before(state: State, weights: Weights, step: int) -> State:
        if step:
            return state
        each = [inputs.refined(weights, concept, **weighed) for concept in range(concepts)]
        found = regions.found(ready, weights, level=section.level, threshold=section.threshold)
        return state.replace(
            refined_CLDD=put(np.stack(each), replicated), region_PS=put(found, replicated)
        )

    def edit(state: State, weights: Weights) -> Edit:
        # Asked for again at a run's end.
        if not (made and made[0] is state):
            adapters = lora.scaled(state.lora, ready.forward.lora_scale)
            changes = inputs.fused(weights, state.refined_CLDD, adapters, **weighed)
            made[:] = state, kernel_changes.edit_of(ready, changes, rank=section.rank)
        return made[1]

    step = functools.partial(train_step, forward=ready.forward, optimiser=optimiser)
    program = compiler.jit(step, ready.mesh, donate_argnums=0, out_shardings=(replicated,) * 2)
    level = Level("mace", functools.partial(batch_of, ready), program)
    return Method(section.steps * concepts, init, edit, (level,), before)


def batch_of(ready: Ready, step: int) -> Batch:
    """A step's pictures, of the concept whose turn it is."""
    optim, bank = ready.settings.optim, ready.bank
    turn, concept = divmod(step, bank.concepts)
    own = np.flatnonzero(bank.plain_G[ready.pictures["concept"].number_P] == concept)
    order = in_turn(len(own), optim.batch, turn, seed=optim.seed, purpose=_PICTURE)
    content = {"picture_B": own[order].astype(np.int32), **regions.shown(ready, own[order])}
    padded, weight_B = pad_rows(content, batch_parts(ready.mesh))
    noise: Any = np.uint32(stream(optim.seed, _NOISE, step).integers(FIRST_SEED, 2**32))
    number: Any = np.int32(concept)
    return Batch(concept=number, weight_B=weight_B, seed=noise, **padded)


def focal_levels(key: jax.Array, rows: int) -> jax.Array:
    """Noise levels [rows] of the density above, k / 1000 for k in 1..1000."""
    k = np.arange(1, 1001)
    density = 1 / (1 + np.exp(-0.05 * (k - 200))) - 1 / (1 + np.exp(-0.05 * (k - 400)))
    return jax.random.choice(key, k / 1000, (rows,), p=density / density.sum())


def attention_in(cols_BHQN: jax.Array, region_BS: jax.Array) -> jax.Array:
    """|| P[region, tokens] ||_F of each row, [B] float32; columns at padding are 0.

    Args:
      cols_BHQN: softmax columns; image queries are the last ones.
      region_BS: of image tokens.
    """
    image_BHSN = cols_BHQN[:, :, -region_BS.shape[1] :].astype(jnp.float32)
    squares_B = jnp.where(region_BS[:, None, :, None], jnp.square(image_BHSN), 0).sum((1, 2, 3))
    # The floor keeps the gradient finite where no attention is left.
    return jnp.sqrt(jnp.maximum(squares_B, 1e-20))


def train_step(
    state: State,
    base: Weights,
    batch: Batch,
    *,
    forward: Forward,
    optimiser: optax.GradientTransformation,
) -> tuple[State, Terms]:
    """One update of a concept's adapters on the loss above.

    Returns:
      The new state; the loss and the gradient's norm, float32.
    """
    own = lambda tree: jax.tree.map(lambda leaf: leaf[batch.concept], tree)  # noqa: E731
    refined = kernel_changes.multiplied(base, QUERIES_AND_KEYS, own(state.refined_CLDD))
    noise_key, t_key = jax.random.split(jax.random.key(batch.seed))
    t_B = focal_levels(t_key, len(batch.weight_B))
    x_BSC = noised(batch.latent_BSC, normal(noise_key, batch.latent_BSC.shape), t_B)
    t_B, region_BS = euler.model_time(t_B, dtype_of(base)), state.region_PS[batch.picture_B]

    def loss(adapters: Any) -> tuple[jax.Array, Terms]:
        norm_LB = columns_of(
            *(refined, adapters, x_BSC, t_B, batch.text, forward),
            columns=batch.columns,
            reduce=lambda cols, columns: attention_in(cols, region_BS),
        )
        total = losses.mean_of(norm_LB.sum(0), batch.weight_B)
        return total, {"mace": total}

    mine, terms = descend(Trained(own(state.lora), own(state.optimiser), None), loss, optimiser)
    put_back = lambda all_, one: all_.at[batch.concept].set(one)  # noqa: E731
    return state.replace(
        lora=jax.tree.map(put_back, state.lora, mine.lora),
        optimiser=jax.tree.map(put_back, state.optimiser, mine.optimiser),
    ), terms
