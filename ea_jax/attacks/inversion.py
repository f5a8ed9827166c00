"""CCE: embeddings in the place of the concept's word, searched in the model that erased it.

After "Circumventing Concept Erasure" (Pham et al., ICLR 2024). Nothing that leaves a model able to
paint the concept holds against it: an upper bound. The target is the frozen model's velocity under
the word, see `ea_jax.methods.inversion`; a filter of words finds none in the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from ea_jax.flux.columns import Columns
from ea_jax.flux.tokens import tokenize
from ea_jax.methods.inversion import Batch, search_step, unit
from ea_jax.runtime import compiler
from ea_jax.runtime.fingerprint import checksum
from ea_jax.runtime.streams import stream

CCE = "CCE"
BUDGETS, STARTS = (0, 10, 30, 100), 4
_RATE = 0.5
_START, _TURN = 511, 512


def cce(budgets: Sequence[int] = BUDGETS, starts: int = STARTS) -> Attack:
    """The attack, with its curve over steps of the search, from several starts."""

    def trials(bench: Bench, victim: Victim) -> list[Trial]:
        plain = prompts.plain(bench)
        found_ZSND = find(bench, victim, budgets, starts)
        return [
            Trial(plain.probes, placed(plain.said, e_ND), budget=f"{steps} steps", start=start)
            for steps, found_SND in zip(budgets, found_ZSND, strict=True)
            for start, e_ND in enumerate(found_SND)
        ]

    meaning = "embeddings searched by gradient in the place of the word"
    return Attack(CCE, "white-box", meaning, trials, own=True, plainly=True)


def find(bench: Bench, victim: Victim, budgets: Sequence[int], starts: int) -> np.ndarray:
    """Embeddings after each budget of steps, float32 [budgets, starts, N, D]; kept."""
    said = bench.say([probe.prompt for probe in bench.own])
    # A filter of words changes nothing here: there is no word.
    latent_PSC = bench.pictures(bench.own)
    begin_SND = _starts(bench, starts, columns_of(said.word_UT).idx_BN.shape[1])
    seen = checksum(latent_PSC, begin_SND)
    inputs = [list(budgets), _RATE, seen, victim.identity()[:2]]
    names = ["found_ZSND"]
    return bench.kept(
        "embeddings in the place of the word",
        inputs,
        said,
        lambda: (_search(bench, victim, said, budgets, begin_SND, latent_PSC),),
        names,
    )[0]


def placed(said: Said, e_ND: np.ndarray) -> Said:
    """Prompts with embeddings in the place of the word, in which no filter finds one."""
    t5_UTD = columns_of(said.word_UT).placed(
        jnp.asarray(said.texts.t5_UTD), jnp.broadcast_to(e_ND, (len(said.word_UT), *e_ND.shape))
    )
    texts = Encoded(said.texts.prompts, np.asarray(t5_UTD), said.texts.pooled_UD)
    return Said(texts, np.zeros_like(said.word_UT))


def columns_of(word_UT: np.ndarray) -> Columns:
    """The places of the word in each prompt, filled up to one width."""
    width = int(word_UT.sum(1).max())
    idx_UN: Any = np.argsort(~word_UT, axis=1, kind="stable")[:, :width].astype(np.int32)
    mask_UN: Any = np.arange(width) < word_UT.sum(1, keepdims=True)
    return Columns(idx_UN, mask_UN)


def _search(
    bench: Bench,
    victim: Victim,
    said: Said,
    budgets: Sequence[int],
    begin_SND: np.ndarray,
    latent_PSC: np.ndarray,
) -> np.ndarray:
    t5_UTD = np.asarray(said.texts.t5_UTD, np.float32)
    scale = float(np.sqrt(np.square(t5_UTD[said.word_UT]).mean()))
    numbers = _numbers(bench, said)
    optimiser = optax.adam(optax.cosine_decay_schedule(_RATE, max(budgets)))
    step = compiler.jit(
        search_step(optimiser, scale=scale, forward=bench.forward()), bench.painter.mesh
    )
    base, _ = bench.painter.bound(None)
    weights, lora = bench.painter.bound(victim.edit, victim.strength)
    edited = None if weights is base else weights
    columns = columns_of(said.word_UT)
    starts, u_BND = len(begin_SND), unit(jnp.asarray(begin_SND))
    opt_state, found = optimiser.init(u_BND), {0: scale * np.asarray(u_BND)}
    with jax.set_mesh(bench.painter.mesh):
        for turn in range(max(budgets)):
            rng = stream(_TURN, turn)
            picked = rng.integers(len(latent_PSC), size=starts)
            rows = numbers[picked]
            batch = Batch(
                latent_BSC=jnp.asarray(latent_PSC[picked]),
                text=said.texts.text([said.texts.prompts[row] for row in rows]),
                columns=jax.tree.map(lambda x, rows=rows: x[rows], columns),
                seed_B=jnp.asarray(rng.integers(2**32, size=starts), jnp.uint32),
            )
            u_BND, opt_state, _ = step(u_BND, opt_state, base, lora, batch, edited)
            found[turn + 1] = scale * np.asarray(u_BND)
    return np.stack([found[budget] for budget in budgets])


def _numbers(bench: Bench, said: Said) -> np.ndarray:
    """Number of each own picture's prompt."""
    return np.array([said.texts.prompts.index(probe.prompt) for probe in bench.own])


def _starts(bench: Bench, starts: int, tokens: int) -> np.ndarray:
    """T5's outputs for other words, [starts, N, D]: an unlucky start is one of the attack's own."""
    others = bench.say(bench.others)
    tokenizer = bench.painter.pipeline.t5_tokenizer
    offsets = tokenize(tokenizer, list(others.texts.prompts), bench.text_length).offsets
    words_UT = np.array([[end > start for start, end in row] for row in offsets])
    words_WD = np.asarray(others.texts.t5_UTD, np.float32)[words_UT]
    return words_WD[stream(_START).integers(len(words_WD), size=(starts, tokens))]
