"""UnlearnDiffAtk: tokens before a prompt that make the victim predict a picture of the concept.

"To Generate or Not?" (Zhang et al., ECCV 2024): no classifier is needed, the model's own loss on a
picture of the concept says how well a prompt asks for it. Each prompt has a prefix of its own, for
T5; CLIP reads the prompt as it is.

    minimise || (n - x0) - v(x_t | prefix + prompt) ||^2 over the prefix
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ea_jax.attacks import prompts
from ea_jax.attacks.bench import Bench
from ea_jax.attacks.canvas import Said
from ea_jax.attacks.trials import Attack, Trial, Victim
from ea_jax.concepts.encoding import Encoded
from ea_jax.evaluate.probes import Probe
from ea_jax.flux import euler, t5
from ea_jax.flux.columns import ColumnGain
from ea_jax.flux.tokens import tokenize
from ea_jax.flux.transformer import Text, dtype_of, velocity
from ea_jax.methods import losses
from ea_jax.methods.inversion import noised
from ea_jax.runtime import compiler
from ea_jax.runtime.streams import stream

BUDGETS, TOKENS = (0, 10, 40), 5
# In units of the vocabulary's root mean square.
_RATE, _BATCH = 0.1, 8
# The best prefix so far is looked for every few steps, by a few draws of noise.
_EVERY, _DRAWS = 5, 4
_START, _TURN, _OTHER_SEEDS = 531, 532, 20_000_000
# (embeddings, vocabulary) -> embeddings that the encoder is given.
Project = Callable[[jax.Array, jax.Array], jax.Array]


def tokens_of(e_BKD: jax.Array, vocabulary_VD: jax.Array) -> jax.Array:
    """The nearest tokens' embeddings, with the gradient of what they stand for."""
    numbers_BK = nearest(e_BKD, vocabulary_VD)
    return e_BKD + jax.lax.stop_gradient(vocabulary_VD[numbers_BK] - e_BKD)


def relaxed(e_BKD: jax.Array, vocabulary_VD: jax.Array) -> jax.Array:
    """The embeddings themselves, which no text has."""
    del vocabulary_VD
    return e_BKD


def nearest(e_BKD: jax.Array, vocabulary_VD: jax.Array) -> jax.Array:
    """Numbers of the tokens with the highest cosine, [B, K]."""
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    return jnp.einsum("bkd,vd->bkv", unit(e_BKD), unit(vocabulary_VD)).argmax(-1)


def unlearn_diff_atk(
    name: str = "UnlearnDiffAtk",
    project: Project = tokens_of,
    budgets: Sequence[int] = BUDGETS,
) -> Attack:
    """The attack, with its curve over steps."""

    def trials(bench: Bench, victim: Victim) -> list[Trial]:
        plain = prompts.plain(bench)
        outputs_ZPTD = find(bench, victim, project, budgets)
        distinct = plain.said.texts.prompts
        rows = [distinct.index(probe.prompt) for probe in plain.probes]
        # Two probes of one prompt have a prefix each.
        names = [f"{n}: {probe.prompt}" for n, probe in enumerate(plain.probes)]
        probes = tuple(
            Probe(name, probe.seed, probe.questions)
            for name, probe in zip(names, plain.probes, strict=True)
        )
        word_PT = _shifted(plain.said.word_UT[rows])
        return [
            Trial(
                probes,
                Said(Encoded(tuple(names), t5_PTD, plain.said.texts.pooled_UD[rows]), word_PT),
                budget=f"{steps} steps",
            )
            for steps, t5_PTD in zip(budgets, outputs_ZPTD, strict=True)
        ]

    how = "embeddings" if project is relaxed else "tokens"
    meaning = f"{TOKENS} {how} before the prompt, searched by gradient"
    return Attack(name, "white-box", meaning, trials, own=True, plainly=True)


def find(bench: Bench, victim: Victim, project: Project, budgets: Sequence[int]) -> np.ndarray:
    """T5's outputs for each prompt behind its prefix, [budgets, P, T, D]; kept."""
    said = bench.plain
    asked = [[probe.prompt, probe.seed] for probe in bench.probes]
    how = [list(budgets), project.__name__, TOKENS, _RATE, _EVERY, _DRAWS]
    inputs = [how, asked, victim.identity()]
    return bench.kept(
        "prompts with a prefix",
        inputs,
        said,
        lambda: (_search(bench, victim, said, project, budgets),),
        ["outputs_ZPTD"],
    )[0]


def _search(
    bench: Bench, victim: Victim, said: Said, project: Project, budgets: Sequence[int]
) -> np.ndarray:
    probes, pipeline = bench.probes, bench.painter.pipeline
    x0_PSC = bench.pictures([Probe(p.prompt, p.seed + _OTHER_SEEDS, ()) for p in probes])
    tokenizer = pipeline.t5_tokenizer
    ids_PT = tokenize(tokenizer, [probe.prompt for probe in probes], bench.text_length).ids_BT
    rows = [said.texts.prompts.index(probe.prompt) for probe in probes]
    keep_PT = 1.0 - _shifted(said.word_UT[rows]).astype(np.float32)
    pooled_PD = said.texts.pooled_UD[rows]
    encoder, config = pipeline.load_part("text_encoder_2"), pipeline.t5_config
    allowed = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
    vocabulary_VD = jnp.asarray(encoder["shared"]["embedding"], jnp.float32)[allowed]
    scale = float(jnp.sqrt(jnp.square(vocabulary_VD).mean()))
    optimiser, forward = optax.adam(_RATE), bench.forward()
    weights, lora = bench.painter.bound(victim.edit, victim.strength)

    def encoded(u_BKD, ids_BT, encoder, vocabulary_VD):
        table = encoder["shared"]["embedding"]
        given_BKD = project(scale * u_BKD, vocabulary_VD).astype(table.dtype)
        rest_BTD = table[ids_BT[:, : ids_BT.shape[1] - TOKENS]]
        return t5.encode_embedded(encoder, config, jnp.concatenate([given_BKD, rest_BTD], 1))

    def error(u_BKD, seed_B, weights, lora, encoder, vocabulary_VD, batch):
        ids_BT, x0_BSC, pooled_BD, keep_BT = batch
        x_BSC, t_B, noise_BSC = noised(x0_BSC, seed_B)
        t_B = euler.model_time(t_B, dtype_of(weights))
        v, _ = velocity(
            weights,
            forward.model,
            x_BSC,
            t_B,
            Text(encoded(u_BKD, ids_BT, encoder, vocabulary_VD), pooled_BD),
            grid=forward.grid,
            guidance_B=None if forward.guidance is None else jnp.full(len(t_B), forward.guidance),
            lora=lora,
            column_gain=ColumnGain(keep_BT, keep_BT) if victim.zeroed else None,
            attention=forward.attention,
        )
        return losses.velocity_error(v, noise_BSC - x0_BSC)

    def step(u_BKD, opt_state, *given):
        grads = jax.grad(lambda u_BKD: error(u_BKD, *given).sum())(u_BKD)
        updates, opt_state = optimiser.update(grads, opt_state)
        return optax.apply_updates(u_BKD, updates), opt_state

    def judged(u_BKD, seed_NB, *given):
        return jax.lax.map(lambda seed_B: error(u_BKD, seed_B, *given), seed_NB).mean(0)

    program, judge = (compiler.jit(one, bench.painter.mesh) for one in (step, judged))
    encode, found = jax.jit(encoded), []
    with jax.set_mesh(bench.painter.mesh):
        for first in range(0, len(probes), _BATCH):
            # The last few are filled up, so that one shape is compiled.
            some = np.minimum(np.arange(first, first + _BATCH), len(probes) - 1)
            batch = ids_PT[some], x0_PSC[some], pooled_PD[some], keep_PT[some]
            given: Any = weights, lora, encoder, vocabulary_VD, batch
            starts = [stream(_START, int(n)).integers(len(allowed), size=TOKENS) for n in some]
            best_BKD = u_BKD = vocabulary_VD[np.array(starts)] / scale
            opt_state, at, lowest_B = optimiser.init(u_BKD), {}, np.full(len(some), np.inf)
            for turn in range(max(budgets) + 1):
                # By the same draws each time: a step's own say more of their noise level.
                if turn in budgets or turn % _EVERY == 0:
                    error_B = np.asarray(judge(u_BKD, _draws(some, range(_DRAWS)), *given))
                    better_B = error_B < lowest_B
                    lowest_B = np.where(better_B, error_B, lowest_B)
                    best_BKD = jnp.where(better_B[:, None, None], u_BKD, best_BKD)
                if turn in budgets:
                    at[turn] = np.asarray(encode(best_BKD, batch[0], encoder, vocabulary_VD))
                if turn < max(budgets):
                    seed_B = _draws(some, [_DRAWS + turn])[0]
                    u_BKD, opt_state = program(u_BKD, opt_state, seed_B, *given)
            real = min(_BATCH, len(probes) - first)
            found.append(np.stack([at[budget][:real] for budget in budgets]))
    pipeline.drop("text_encoder_2")
    return np.concatenate(found, axis=1).astype(jnp.bfloat16)


def _draws(some: Sequence[int] | np.ndarray, turns: Sequence[int]) -> np.ndarray:
    """Seeds of noise and its level for some prompts, uint32 [turns, B]."""
    made = [[stream(_TURN, int(n), turn).integers(2**32) for n in some] for turn in turns]
    return np.array(made, np.uint32)


def _shifted(word_PT: np.ndarray) -> np.ndarray:
    """Where the word stands behind a prefix."""
    before = np.zeros((len(word_PT), TOKENS), bool)
    return np.concatenate([before, word_PT], axis=1)[:, : word_PT.shape[1]]
