"""How far sets of pictures are apart: Fréchet's distance, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

_DRAWS, _SEED = 200, 421
Seen = TypeVar("Seen")


def frechet(one_PF: np.ndarray, other_PF: np.ndarray) -> float:
    """Fréchet distance of two sets of features, each taken as a normal distribution.

    Source: Dowson and Landau, 1982: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).
    """
    one_PF, other_PF = np.asarray(one_PF, np.float64), np.asarray(other_PF, np.float64)
    mean = one_PF.mean(0) - other_PF.mean(0)
    # The trace of the root is the nuclear norm of the product of the factors.
    a_KF, b_KF = (_factor(x_PF) for x_PF in (one_PF, other_PF))
    roots = np.linalg.svd(a_KF @ b_KF.T, compute_uv=False)
    spread = (a_KF**2).sum() + (b_KF**2).sum()
    return float(mean @ mean + spread - 2 * roots.sum())


def _factor(x_PF: np.ndarray) -> np.ndarray:
    """A with A^T A the covariance; as tall as there are pictures or features, if those are less."""
    a_PF = (x_PF - x_PF.mean(0)) / np.sqrt(len(x_PF) - 1)
    if len(a_PF) <= a_PF.shape[1]:
        return a_PF
    triangle: Any = np.linalg.qr(a_PF, mode="r")
    return triangle


def beside(of: Callable[[Seen, Any], float], one: Seen, base: Seen, count: int) -> dict[str, float]:
    """A number of one's pictures, and the 95 % interval of how far it is from the base's.

    Args:
      of: what was seen, and places of pictures, to the number.
      one, base: what was seen in pictures of the same prompts and seeds.
      count: of pictures.
    Returns:
      `value`, and `low` and `high` of the difference, by bootstrap.
    """
    rows_DP = np.random.default_rng(_SEED).integers(count, size=(_DRAWS, count))
    # The same rows for both: what drawing again does to a number falls out.
    apart = [of(one, rows) - of(base, rows) for rows in rows_DP]
    low, high = np.percentile(apart, [2.5, 97.5])
    return {"value": of(one, slice(None)), "low": float(low), "high": float(high)}
