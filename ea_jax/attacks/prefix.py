"""UnlearnDiffAtk: tokens before a prompt that make the victim predict a picture of the concept.

"To Generate or Not?" (Zhang et al., ECCV 2024): no classifier is needed, the model's own loss on a
picture of the concept says how well a prompt asks for it. Each prompt has a prefix of its own, for
T5; CLIP reads the prompt as it is.

    minimise || (n - x0) - v(x_t | prefix + prompt) ||^2 over the prefix

The noise level t is drawn from [0.5, 1], where a picture takes its form. A step averages two draws;
four that stay the same choose the best prefix of all.

Tokens are searched by greedy coordinate gradients (Zou et al. 2023, "Universal and Transferable
Adversarial Attacks on Aligned Language Models"): of single swaps that the gradient promises most
of, some are tried and the best one is made. With the paper's projected steps no count changed in a
trial on flux-tiny. Tokens of the word itself are not allowed. The relaxed form moves embeddings,
which no text has: how far any prefix could come.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
from ea_jax.runtime.fingerprint import checksum
from ea_jax.runtime.streams import stream

_log = logging.getLogger(__name__)
BUDGETS, TOKENS = (0, 10, 40), 5
_VERSION = 2  # of what is kept on disk
# Prompts of a batch; draws of noise for a step, and those that prefixes are compared by.
_BATCH, _EACH, _DRAWS = 8, 2, 4
# The best prefix so far is looked for every few steps.
_EVERY = 5
# Of embeddings, in units of the vocabulary's root mean square.
_RATE = 0.1
# Of tokens: swaps that a step tries, from the most promising tokens of each place.
_TRIED, _PROMISING = 16, 64
_START, _TURN, _OTHER_SEEDS = 531, 532, 20_000_000


class Search(NamedTuple):
    """How prefixes u [B, K, D] of K tokens are moved; in units of the vocabulary's rms.

    Attributes:
      name: of what is searched.
      begin: u -> the search's state.
      move: (u, state, errors, words_VD, key) -> both, one step on; errors: u -> [B].
    """

    name: str
    begin: Callable[[jax.Array], Any]
    move: Callable[..., tuple[jax.Array, Any]]


Errors = Callable[[jax.Array], jax.Array]


def swapped(
    u_BKD: jax.Array, state: Any, errors: Errors, words_VD: jax.Array, key: jax.Array
) -> tuple[jax.Array, Any]:
    """The best of some swaps of a token in each prefix, where one of them is an improvement."""
    slope_BKD = jax.grad(lambda u_BKD: errors(u_BKD).sum())(u_BKD)
    gain_BKV = -jnp.einsum("bkd,vd->bkv", slope_BKD, words_VD)
    _, best_BKN = jax.lax.top_k(gain_BKV, min(_PROMISING, len(words_VD)))
    row_B = jnp.arange(len(u_BKD))

    def swap(key: jax.Array) -> jax.Array:
        place_key, token_key = jax.random.split(key)
        place_B = jax.random.randint(place_key, row_B.shape, 0, u_BKD.shape[1])
        token_B = jax.random.randint(token_key, row_B.shape, 0, best_BKN.shape[2])
        return u_BKD.at[row_B, place_B].set(words_VD[best_BKN[row_B, place_B, token_B]])

    tried_CBKD = jax.vmap(swap)(jax.random.split(key, _TRIED))
    tried_CBKD = jnp.concatenate([u_BKD[None], tried_CBKD])
    best_B = jax.lax.map(errors, tried_CBKD).argmin(0)
    return tried_CBKD[best_B, row_B], state


def descended(
    u_BKD: jax.Array, state: Any, errors: Errors, words_VD: jax.Array, key: jax.Array
) -> tuple[jax.Array, Any]:
    """One step of Adam on the embeddings."""
    del words_VD, key
    grads = jax.grad(lambda u_BKD: errors(u_BKD).sum())(u_BKD)
    updates, state = optax.adam(_RATE).update(grads, state)
    moved: Any = optax.apply_updates(u_BKD, updates)
    return moved, state


TOKENWISE = Search("tokens", lambda u_BKD: (), swapped)
RELAXED = Search("embeddings", optax.adam(_RATE).init, descended)


def unlearn_diff_atk(
    name: str = "UnlearnDiffAtk",
    search: Search = TOKENWISE,
    budgets: Sequence[int] = BUDGETS,
) -> Attack:
    """The attack, with its curve over steps."""

    def trials(bench: Bench, victim: Victim) -> list[Trial]:
        plain = prompts.plain(bench)
        outputs_ZPTD = find(bench, victim, search, budgets)
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

    meaning = f"{TOKENS} {search.name} before the prompt, searched by gradient"
    return Attack(name, "white-box", meaning, trials, own=True, plainly=True)


def find(bench: Bench, victim: Victim, search: Search, budgets: Sequence[int]) -> np.ndarray:
    """T5's outputs for each prompt behind its prefix, [budgets, P, T, D]; kept."""
    said = bench.plain
    asked = [[probe.prompt, probe.seed] for probe in bench.probes]
    how = [_VERSION, list(budgets), search.name, TOKENS, _EVERY, _EACH, _DRAWS]
    how += [_RATE, _TRIED, _PROMISING]
    x0_PSC = bench.pictures(bench.probes, apart=_OTHER_SEEDS)
    inputs = [how, asked, checksum(x0_PSC), victim.identity()]
    return bench.kept(
        "prompts with a prefix",
        inputs,
        said,
        lambda: (_search(bench, victim, said, search, budgets, x0_PSC),),
        ["outputs_ZPTD"],
    )[0]


def _search(
    bench: Bench,
    victim: Victim,
    said: Said,
    search: Search,
    budgets: Sequence[int],
    x0_PSC: np.ndarray,
) -> np.ndarray:
    probes, pipeline = bench.probes, bench.painter.pipeline
    tokenizer = pipeline.t5_tokenizer
    ids_PT = tokenize(tokenizer, [probe.prompt for probe in probes], bench.text_length).ids_BT
    rows = [said.texts.prompts.index(probe.prompt) for probe in probes]
    keep_PT = 1.0 - _shifted(said.word_UT[rows]).astype(np.float32)
    pooled_PD = said.texts.pooled_UD[rows]
    encoder, config = pipeline.load_part("text_encoder_2"), pipeline.t5_config
    forbidden = [*tokenizer.all_special_ids, *ids_PT[said.word_UT[rows]]]
    allowed = np.setdiff1d(np.arange(len(tokenizer)), forbidden)
    words_VD = jnp.asarray(encoder["shared"]["embedding"], jnp.float32)[allowed]
    scale = float(jnp.sqrt(jnp.square(words_VD).mean()))
    words_VD = words_VD / scale
    forward = bench.forward()
    weights, lora = bench.painter.bound(victim.edit, victim.strength)

    def encoded(u_BKD, ids_BT, encoder):
        table = encoder["shared"]["embedding"]
        rest_BTD = table[ids_BT[:, : ids_BT.shape[1] - TOKENS]]
        before_BKD = (scale * u_BKD).astype(table.dtype)
        return t5.encode_embedded(encoder, config, jnp.concatenate([before_BKD, rest_BTD], 1))

    def error(u_BKD, seed_B, weights, lora, encoder, batch):
        ids_BT, x0_BSC, pooled_BD, keep_BT = batch
        x_BSC, t_B, noise_BSC = noised(x0_BSC, seed_B)
        t_B = euler.model_time(t_B, dtype_of(weights))
        v, _ = velocity(
            weights,
            forward.model,
            x_BSC,
            t_B,
            Text(encoded(u_BKD, ids_BT, encoder), pooled_BD),
            grid=forward.grid,
            guidance_B=None if forward.guidance is None else jnp.full(len(t_B), forward.guidance),
            lora=lora,
            column_gain=ColumnGain(keep_BT, keep_BT) if victim.zeroed else None,
            attention=forward.attention,
        )
        return losses.velocity_error(v, noise_BSC - x0_BSC)

    def errors(u_BKD, seed_NB, *given):
        return jax.lax.map(lambda seed_B: error(u_BKD, seed_B, *given), seed_NB).mean(0)

    def step(u_BKD, state, seed_NB, words_VD, *given):
        key = jax.random.fold_in(jax.random.key(seed_NB[0, 0]), 1)
        return search.move(u_BKD, state, lambda u: errors(u, seed_NB, *given), words_VD, key)

    program, judge = (compiler.jit(one, bench.painter.mesh) for one in (step, errors))
    encode, found = jax.jit(encoded), []
    with jax.set_mesh(bench.painter.mesh):
        for first in range(0, len(probes), _BATCH):
            # The last few are filled up, so that one shape is compiled.
            some = np.minimum(np.arange(first, first + _BATCH), len(probes) - 1)
            batch = ids_PT[some], x0_PSC[some], pooled_PD[some], keep_PT[some]
            given: Any = weights, lora, encoder, batch
            starts = [stream(_START, int(n)).integers(len(allowed), size=TOKENS) for n in some]
            best_BKD = u_BKD = words_VD[np.array(starts)]
            state, at, lowest_B = search.begin(u_BKD), {}, np.full(len(some), np.inf)
            for turn in range(max(budgets) + 1):
                # By the same draws each time: a step's own say more of their noise level.
                if turn in budgets or turn % _EVERY == 0:
                    error_B = np.asarray(judge(u_BKD, _draws(some, range(_DRAWS)), *given))
                    better_B = error_B < lowest_B
                    lowest_B = np.where(better_B, error_B, lowest_B)
                    best_BKD = jnp.where(better_B[:, None, None], u_BKD, best_BKD)
                if turn in budgets:
                    _log.info("%d steps: error %.4f", turn, lowest_B.mean())
                    at[turn] = np.asarray(encode(best_BKD, batch[0], encoder))
                if turn < max(budgets):
                    own = range(_DRAWS + turn * _EACH, _DRAWS + (turn + 1) * _EACH)
                    u_BKD, state = program(u_BKD, state, _draws(some, own), words_VD, *given)
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
