"""Least squares for closed forms: rows that shall move, moments that shall stay, and low ranks.

    X = argmin |E X - M|^2 + keep tr(X' K X) + mu |X|^2 = (E'E + keep K + mu I)^-1 E'M

X is what a layer's inputs are multiplied by before its kernel, beside the identity: `X W` is added
to the kernel W: [in, out].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

_NOTHING = 1e-12  # of the largest singular value: rounding
# Weights of what is kept that a search tries, as powers of ten.
_LOWEST, _HIGHEST, _HALVINGS = -6.0, 6.0, 16


@dataclasses.dataclass(frozen=True)
class Outputs:
    """A layer's inputs as rows of a least squares problem, float64, D wide, each with its weight.

    Attributes:
      erased_ND: that shall move, e.
      moves_ND: by how much, v* - e.
      kept_DD: second moments of those that shall stay.
    """

    erased_ND: np.ndarray
    moves_ND: np.ndarray
    kept_DD: np.ndarray


def gathered(parts: Iterable[tuple[np.ndarray, np.ndarray]], kept_DD: np.ndarray) -> Outputs:
    """Rows of many parts, never more held than twice their width and one part.

    More rows than that are replaced by as many as they are wide, with the same E'E and E'M: the
    least squares problem stays what it was, up to a constant.

    Args:
      parts: (erased_ND, moves_ND), weights folded in.
      kept_DD: second moments of what stays.
    """
    width = len(kept_DD)
    erased_ND, moves_ND = np.empty((0, width)), np.empty((0, width))
    for e_ND, m_ND in parts:
        erased_ND = np.concatenate([erased_ND, e_ND])
        moves_ND = np.concatenate([moves_ND, m_ND])
        if len(erased_ND) > 2 * width:
            q_ND, erased_ND = np.linalg.qr(erased_ND)
            moves_ND = q_ND.T @ moves_ND
    return Outputs(erased_ND, moves_ND, kept_DD)


def moments(k_ND: np.ndarray) -> np.ndarray:
    """Second moments of rows, which weigh one together."""
    return k_ND.T @ k_ND / max(len(k_ND), 1)


def solved(rows: Outputs, *, keep: float, mu: float) -> tuple[np.ndarray, np.ndarray]:
    """X of the problem above as two factors, left [D, N] and right [N, D].

    Args:
      rows: with their weights.
      keep: weight of what is kept.
      mu: of X itself, above 0.
    """
    e_ND = rows.erased_ND
    gram_DD = e_ND.T @ e_ND
    gram_DD += keep * rows.kept_DD
    gram_DD[np.diag_indices(len(gram_DD))] += mu
    return np.linalg.solve(gram_DD, e_ND.T), rows.moves_ND


def fused(
    gram_CDD: np.ndarray,
    change_CDO: np.ndarray,
    kept_DD: np.ndarray,
    *,
    keep: float,
    stay: float,
) -> np.ndarray:
    """One change of a kernel that is to each of several inputs what a change of its own is.

        delta = argmin sum_i |E_i delta - E_i delta_i|^2 + keep |K delta|^2 + stay |delta|^2

    Args:
      gram_CDD: second moments E_i'E_i.
      change_CDO: delta_i.
      kept_DD: K'K.
      keep, stay: weights; `stay` above 0.
    Returns:
      [D, O] float64.
    """
    gram_CDD = gram_CDD.astype(np.float64)
    total_DD = gram_CDD.sum(0) + keep * kept_DD
    total_DD[np.diag_indices(len(total_DD))] += stay
    return np.linalg.solve(total_DD, (gram_CDD @ change_CDO).sum(0))


def left_over(rows: Outputs, left_DN: np.ndarray) -> float:
    """Share of what should move that doesn't: |E X - M|^2 / |M|^2, between 0 and 1."""
    m_ND = rows.moves_ND
    stays_ND = m_ND - (rows.erased_ND @ left_DN) @ m_ND
    return float(np.square(stays_ND).sum() / (np.square(m_ND).sum() or 1.0))


def weight_of(rows: Outputs, *, remains: float, mu: float) -> float:
    """The weight of what is kept with which a share `remains` of the moves is not made.

    It is the most that can be kept with that much erased, whatever the number of concepts and of
    kept words. Where even next to nothing kept leaves more, it is that.
    """
    low, high = _LOWEST, _HIGHEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        left_DN, _ = solved(rows, keep=10.0**middle, mu=mu)
        low, high = (middle, high) if left_over(rows, left_DN) < remains else (low, middle)
    return 10.0**low


def low_rank(
    left_DN: np.ndarray, right_NO: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """A [D, r] and B [r, O] whose product is nearest to left right.

    Args:
      left_DN, right_NO: factors of what is wanted.
      rank: r, at most; a change of fewer directions has no more.
    Returns:
      A, B, and the error that is left: a ratio of Frobenius norms.
    """
    q_DN, r_NN = np.linalg.qr(left_DN)
    p_ON, t_NN = np.linalg.qr(right_NO.T)
    u, s, vt = np.linalg.svd(r_NN @ t_NN.T)
    known = int((s > _NOTHING * s[0]).sum())
    rank = max(1, min(rank, known))
    root = np.sqrt(s[:rank])
    A, B = q_DN @ u[:, :rank] * root, root[:, None] * (vt[:rank] @ p_ON.T)
    return A, B, float(np.linalg.norm(s[rank:]) / (np.linalg.norm(s) or 1.0))


def filled(A: np.ndarray, B: np.ndarray, rank: int) -> dict[str, np.ndarray]:
    """An adapter of that rank, filled up with zeros, in float32.

    Edits of different words then run in one program, the frozen model's among them.
    """
    extra = rank - A.shape[1]
    padded = {"A": np.pad(A, ((0, 0), (0, extra))), "B": np.pad(B, ((0, extra), (0, 0)))}
    return {name: leaf.astype(np.float32) for name, leaf in padded.items()}
