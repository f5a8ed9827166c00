"""Ring-A-Bell: prompts found by a genetic search in the text encoders, without the victim.

After Tsai et al. (ICLR 2024), who search in CLIP's outputs. FLUX reads CLIP's pooled vector and
T5's outputs, whose mean over tokens stands for them here:

    target = E(p) + 3 mean(E(p+) - E(p-))

p+ are prompts with the concept, p- the same without its word, and so is p. A prompt that holds the
word itself doesn't count: an erasure and any filter know it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ea_jax.attacks.bench import Bench
from ea_jax.attacks.trials import Attack, Trial, Victim
from ea_jax.concepts import sentences, spans
from ea_jax.concepts.encoding import ENCODERS
from ea_jax.evaluate.probes import Probe
from ea_jax.runtime.streams import stream

BUDGETS, POPULATION, TOKENS = (0, 10, 30), 40, 16
_STRENGTH, _MUTATION, _KEPT = 3.0, 0.15, 8
_SEED = 541


def ring_a_bell(budgets: Sequence[int] = BUDGETS, population: int = POPULATION) -> Attack:
    """The attack, with its curve over generations."""

    def trials(bench: Bench, victim: Victim) -> list[Trial]:
        del victim
        found_ZPK = find(bench, budgets, population)
        tokenizer = bench.painter.pipeline.t5_tokenizer
        made = []
        for generations, ids_PK in zip(budgets, found_ZPK, strict=True):
            texts = [written(tokenizer, ids_K) for ids_K in ids_PK]
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
        "prompts of a genetic search",
        inputs,
        said,
        lambda: (Search(bench).run(asked, budgets, population),),
        ["found_ZPK"],
    )[0]


def written(tokenizer, ids_K: np.ndarray) -> str:
    """The text of some tokens."""
    return tokenizer.decode(ids_K.tolist(), skip_special_tokens=True).strip()


class Search:
    """The genetic search: the fittest stay, their children mix two parents and mutate.

    Args:
      bench: whose encoders, own prompts and word are used.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench, self._word = bench, bench.word
        pipeline = bench.painter.pipeline
        for part in ENCODERS:
            pipeline.load_part(part)
        self._tokenizer = pipeline.t5_tokenizer
        self._allowed = np.setdiff1d(
            np.arange(len(self._tokenizer)), self._tokenizer.all_special_ids
        )
        plus = [probe.prompt for probe in bench.own]
        minus = [sentences.remove(prompt, bench.word) for prompt in plus]
        with_F, without_F = self.features(plus), self.features(minus)
        self._direction_F = (with_F - without_F).mean(0)
        # Each encoder's features count alike, whatever their width and size.
        self._weight_F = np.empty_like(self._direction_F)
        for part in (slice(None, self._pooled), slice(self._pooled, None)):
            self._weight_F[part] = 1 / np.square(self._direction_F[part]).sum()

    def features(self, texts: Sequence[str]) -> np.ndarray:
        """Pooled CLIP and T5's mean over tokens, side by side, float32 [B, F]."""
        pipeline = self._bench.painter.pipeline
        text, tokens = pipeline.encode(texts, max_length=self._bench.text_length)
        real_BT1 = (tokens.ids_BT != self._tokenizer.pad_token_id)[..., None]
        t5_BTD = np.asarray(text.t5_BTD, np.float32)
        mean_BD = (t5_BTD * real_BT1).sum(1) / real_BT1.sum(1)
        pooled_BD = np.asarray(text.pooled_BD, np.float32)
        self._pooled = pooled_BD.shape[1]
        return np.concatenate([pooled_BD, mean_BD], axis=1)

    def fitness(self, ids_BK: np.ndarray, target_BF: np.ndarray) -> np.ndarray:
        """Minus the distance to the target, [B]; -Inf for a text with the word, or of nothing."""
        texts = [written(self._tokenizer, ids_K) for ids_K in ids_BK]
        off_BF = np.square(self.features(texts) - target_BF) * self._weight_F
        barred = [not text or bool(spans.occurrences(text, self._word)) for text in texts]
        return np.where(barred, -np.inf, -off_BF.sum(1))

    def run(self, asked: Sequence[str], budgets: Sequence[int], population: int) -> np.ndarray:
        """The best tokens for each prompt after each budget of generations, [budgets, P, K]."""
        without = [sentences.remove(prompt, self._word) for prompt in asked]
        target_PF = self.features(without) + _STRENGTH * self._direction_F
        rng, found = stream(_SEED), {}
        ids_PNK = np.stack([self._first(text, population, rng) for text in without])
        for generation in range(max(budgets) + 1):
            fit_PN = self.fitness(
                ids_PNK.reshape(-1, TOKENS), np.repeat(target_PF, population, axis=0)
            ).reshape(len(asked), population)
            order_PN = np.argsort(-fit_PN, axis=1, kind="stable")
            ids_PNK = np.take_along_axis(ids_PNK, order_PN[..., None], axis=1)
            if generation in budgets:
                found[generation] = ids_PNK[:, 0]
            ids_PNK = np.stack([self._next(ids_NK, rng) for ids_NK in ids_PNK])
        self._bench.painter.pipeline.drop(*ENCODERS)
        return np.stack([found[budget] for budget in budgets]).astype(np.int32)

    def _first(self, text: str, population: int, rng: np.random.Generator) -> np.ndarray:
        """The prompt's own tokens, and random ones behind them."""
        own = self._tokenizer(text, add_special_tokens=False)["input_ids"][: TOKENS // 2]
        ids_NK = rng.choice(self._allowed, size=(population, TOKENS))
        ids_NK[:, : len(own)] = own
        return ids_NK

    def _next(self, ids_NK: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The fittest, and children of two of the better half each."""
        children = len(ids_NK) - _KEPT
        parents = rng.integers(max(len(ids_NK) // 2, 1), size=(2, children))
        mixed = rng.random((children, TOKENS)) < 0.5
        made_NK = np.where(mixed, ids_NK[parents[0]], ids_NK[parents[1]])
        changed = rng.random(made_NK.shape) < _MUTATION
        made_NK[changed] = rng.choice(self._allowed, size=int(changed.sum()))
        return np.concatenate([ids_NK[:_KEPT], made_NK])
