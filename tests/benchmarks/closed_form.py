"""How long a closed form takes at FLUX.1-dev's width, and the memory it holds: random outputs.

    python tests/benchmarks/closed_form.py --concepts 100 --words 20000

T5's outputs are drawn, a batch at a time, in the place of encoding them; all that follows is
`embedder`'s own code, from the first moment to the adapter: 4096 -> 3072, rank 256.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import numpy as np

from ea_jax.concepts.kept_words import Moments
from ea_jax.methods import closed_form, text_outputs
from ea_jax.methods.embedder import mean_square
from ea_jax.runtime.memory import peak_host_bytes

D, O = 4096, 3072  # noqa: E741
_RIDGE, _BATCH = 0.1, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concepts", type=int, default=100)
    parser.add_argument("--words", type=int, default=20_000)
    parser.add_argument("--tokens", type=int, default=1, help="outputs of a word")
    parser.add_argument("--rows", type=int, default=10, help="outputs of a concept")
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--remains", type=float, help="share that stays, searched for")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    # Some directions hold most of what outputs are, as in T5.
    spread_D = np.geomspace(1, 0.01, D, dtype=np.float32)

    def drawn(rows: int) -> np.ndarray:
        return rng.standard_normal((rows, D), np.float32) * spread_D

    began = _say("start", time.monotonic())
    moments = Moments(D)
    spent = 0.0
    for start in range(0, given.words, _BATCH):
        count = min(_BATCH, given.words - start)
        outputs = drawn(count * given.tokens).reshape(count, given.tokens, D)
        before = time.monotonic()
        for word_ND in outputs:
            moments.add(word_ND, 1.0)
        spent += time.monotonic() - before
    before = time.monotonic()
    kept_DD = moments.total()
    spent += time.monotonic() - before
    began = _say(f"moments of {given.words} words ({spent:.1f} s without drawing them)", began)

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _ in range(given.concepts):
            own = drawn(1) + 0.3 * drawn(given.rows)
            yield text_outputs.weighed(own, 1.0, np.zeros(D))

    rows = closed_form.gathered(parts(), kept_DD)
    began = _say(f"{len(rows.erased_ND)} rows of {given.concepts} concepts", began)
    mu, keep = _RIDGE * mean_square(rows), 0.1
    if given.remains is not None:
        keep = closed_form.weight_of(rows, remains=given.remains, mu=mu)
        began = _say(f"weight of what is kept, {keep:.3g}", began)
    left_DN, right_ND = closed_form.solved(rows, keep=keep, mu=mu)
    began = _say("solved", began)
    kernel_DO = rng.standard_normal((D, O)) / np.sqrt(D)
    A, B, error = closed_form.low_rank(left_DN, right_ND @ kernel_DO, given.rank)
    stays = closed_form.left_over(rows, left_DN)
    size = 2 * (A.size + B.size)
    _say(f"rank {A.shape[1]}, error {error:.2g}, {size / 2**20:.1f} MiB, {stays:.2g} stays", began)


def _say(what: str, began: float) -> float:
    now = time.monotonic()
    peak = peak_host_bytes() / 2**30
    sys.stdout.write(f"{now - began:7.1f} s  peak {peak:5.2f} GiB  {what}\n")
    sys.stdout.flush()
    return now


if __name__ == "__main__":
    main()
