"""Ring-A-Bell: prompts found by a genetic search in the text encoders, without the victim.

After Tsai et al. (ICLR 2024), who search in CLIP's outputs. FLUX reads CLIP's pooled vector,

    target = E(p) + 3 mean(E(p+) - E(p-))

and T5's outputs, token by token: there some token has to come near what the word's own tokens are
in p+, wherever it stands. p+ are prompts with the concept, p- the same without its word, and so is
p. The tokens that are searched stand in the word's place; the rest of the prompt stays, so that a
picture is still asked for. Tokens that spell the word don't count: any filter knows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ea_jax.attacks.bench import Bench
from ea_jax.attacks.inversion import columns_of
from ea_jax.attacks.trials import Attack, Trial, Victim
from ea_jax.concepts import sentences, spans
from ea_jax.concepts.encoding import ENCODERS
from ea_jax.evaluate.probes import Probe
from ea_jax.runtime.streams import stream

BUDGETS, POPULATION, TOKENS = (0, 10, 30), 40, 4
_STRENGTH, _MUTATION, _KEPT = 3.0, 0.15, 8
_SEED = 541


def ring_a_bell(budgets: Sequence[int] = BUDGETS, population: int = POPULATION) -> Attack:
    """The attack, with its curve over generations."""

    def trials(bench: Bench, victim: Victim) -> list[Trial]:
        del victim
        found_ZPK = find(bench, budgets, population)
        made = []
        for generations, ids_PK in zip(budgets, found_ZPK, strict=True):
            texts = [
                placed(bench, probe.prompt, ids_K)
                for probe, ids_K in zip(bench.probes, ids_PK, strict=True)
            ]
            probes = tuple(
                Probe(text, probe.seed, probe.questions)
                for text, probe in zip(texts, bench.probes, strict=True)
            )
            made.append(Trial(probes, bench.say(texts), budget=f"{generations} generations"))
        return made

    meaning = "prompts without the word, searched in the text encoders"
    return Attack("Ring-A-Bell", "black-box", meaning, trials, plainly=True)


def find(bench: Bench, budgets: Sequence[int], population: int) -> np.ndarray:
    """Tokens of the best prompt for each plain one, int32 [budgets, P, K]; kept."""
    said = bench.say([probe.prompt for probe in (*bench.probes, *bench.own)])
    asked = [probe.prompt for probe in bench.probes]
    inputs = [list(budgets), population, TOKENS, _STRENGTH, _MUTATION, _KEPT, asked]
    return bench.kept(
        "prompts of a genetic search, token by token",
        inputs,
        said,
        lambda: (Search(bench).run(asked, budgets, population),),
        ["found_ZPK"],
    )[0]


def placed(bench: Bench, prompt: str, ids_K: np.ndarray) -> str:
    """A prompt with the text of some tokens in the place of the word."""
    tokenizer = bench.painter.pipeline.t5_tokenizer
    found = tokenizer.decode(ids_K.tolist(), skip_special_tokens=True).strip()
    return sentences.exchange(prompt, bench.word, found)


class Search:
    """The genetic search: the fittest stay, their children mix two parents and mutate.

    Args:
      bench: whose encoders, own prompts and word are used.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        pipeline = bench.painter.pipeline
        for part in ENCODERS:
            pipeline.load_part(part)
        self._tokenizer = pipeline.t5_tokenizer
        self._allowed = np.setdiff1d(
            np.arange(len(self._tokenizer)), self._tokenizer.all_special_ids
        )
        plus = [probe.prompt for probe in bench.own]
        minus = [sentences.remove(prompt, bench.word) for prompt in plus]
        (with_BF, with_BTD, _), (without_BF, other_BTD, real_BT) = map(self.encoded, (plus, minus))
        self._direction_F = (with_BF - without_BF).mean(0)
        columns = columns_of(bench.where(plus))
        word_BND = np.take_along_axis(with_BTD, np.asarray(columns.idx_BN)[..., None], axis=1)
        mask_BN1 = np.asarray(columns.mask_BN)[..., None]
        self._word_ND = (word_BND * mask_BN1).sum(0) / mask_BN1.sum(0)
        # How far any other token is: what is left of that way counts.
        self._apart_N = np.square(self._word_ND - other_BTD[real_BT].mean(0)).sum(1)

    def encoded(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pooled CLIP [B, F], T5's outputs [B, T, D], and which are tokens of the text [B, T]."""
        pipeline = self._bench.painter.pipeline
        text, tokens = pipeline.encode(texts, max_length=self._bench.text_length)
        real_BT = tokens.ids_BT != self._tokenizer.pad_token_id
        pooled_BF, t5_BTD = (np.asarray(x, np.float32) for x in (text.pooled_BD, text.t5_BTD))
        return pooled_BF, t5_BTD, real_BT

    def targets(self, asked: Sequence[str]) -> np.ndarray:
        """Where pooled CLIP has to come to, from prompts that lose the word, [P, F]."""
        without = [sentences.remove(prompt, self._bench.word) for prompt in asked]
        return self.encoded(without)[0] + _STRENGTH * self._direction_F

    def fitness(self, prompt: str, ids_BK: np.ndarray, target_F: np.ndarray) -> np.ndarray:
        """Minus what is left of the way to a target, about 1 for each encoder at first, [B].

        -Inf for tokens that spell the word.
        """
        texts = [placed(self._bench, prompt, ids_K) for ids_K in ids_BK]
        pooled_BF, t5_BTD, real_BT = self.encoded(texts)
        way = np.square(_STRENGTH * self._direction_F).sum()
        left_B = np.square(pooled_BF - target_F).sum(1) / way
        for word_D, apart in zip(self._word_ND, self._apart_N, strict=True):
            off_BT = np.square(t5_BTD - word_D).sum(-1) / apart
            left_B += np.where(real_BT, off_BT, np.inf).min(1) / len(self._word_ND)
        barred = [bool(spans.occurrences(text, self._bench.word)) for text in texts]
        return np.where(barred, -np.inf, -left_B)

    def run(self, asked: Sequence[str], budgets: Sequence[int], population: int) -> np.ndarray:
        """The best tokens for each prompt after each budget of generations, [budgets, P, K]."""
        target_PF = self.targets(asked)
        rng, found = stream(_SEED), {}
        ids_PNK = rng.choice(self._allowed, size=(len(asked), population, TOKENS))
        for generation in range(max(budgets) + 1):
            # A population at once: T5-XXL's outputs for all of them would fill the memory.
            fit_PN = np.stack(
                [self.fitness(*one) for one in zip(asked, ids_PNK, target_PF, strict=True)]
            )
            order_PN = np.argsort(-fit_PN, axis=1, kind="stable")
            ids_PNK = np.take_along_axis(ids_PNK, order_PN[..., None], axis=1)
            if generation in budgets:
                found[generation] = ids_PNK[:, 0]
            ids_PNK = np.stack([self._next(ids_NK, rng) for ids_NK in ids_PNK])
        self._bench.painter.pipeline.drop(*ENCODERS)
        return np.stack([found[budget] for budget in budgets]).astype(np.int32)

    def _next(self, ids_NK: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The fittest, and children of two of the better half each."""
        children = len(ids_NK) - _KEPT
        parents = rng.integers(max(len(ids_NK) // 2, 1), size=(2, children))
        mixed = rng.random((children, TOKENS)) < 0.5
        made_NK = np.where(mixed, ids_NK[parents[0]], ids_NK[parents[1]])
        changed = rng.random(made_NK.shape) < _MUTATION
        made_NK[changed] = rng.choice(self._allowed, size=int(changed.sum()))
        return np.concatenate([ids_NK[:_KEPT], made_NK])
