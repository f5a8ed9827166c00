"""Least squares of closed forms: rows in parts, the weight of what is kept, adapters filled up."""

from __future__ import annotations

import numpy as np
import pytest

from ea_jax.methods import closed_form
from ea_jax.methods.closed_form import Outputs


def problem(rows: int, width: int = 5, seed: int = 0) -> Outputs:
    rng = np.random.default_rng(seed)
    e, m, k = (rng.standard_normal((n, width)) for n in (rows, rows, 20))
    return Outputs(e, m, k.T @ k)


def test_rows_that_come_in_parts_give_the_solution_of_all_at_once_and_few_are_held() -> None:
    whole = problem(200)
    cuts = range(0, 200, 7)
    parts = ((whole.erased_ND[i : i + 7], whole.moves_ND[i : i + 7]) for i in cuts)
    held = closed_form.gathered(parts, whole.kept_DD)
    # Twice the width, and a part of seven.
    assert len(held.erased_ND) <= 2 * 5 + 7
    one, other = (np.matmul(*closed_form.solved(rows, keep=0.3, mu=0.2)) for rows in (whole, held))
    np.testing.assert_allclose(other, one, rtol=1e-9)


def test_a_share_that_remains_finds_the_most_that_can_be_kept() -> None:
    for seed, remains in ((0, 0.05), (1, 0.5), (2, 0.9)):
        rows = problem(3, width=8, seed=seed)
        keep = closed_form.weight_of(rows, remains=remains, mu=1e-6)
        left, _ = closed_form.solved(rows, keep=keep, mu=1e-6)
        assert closed_form.left_over(rows, left) == pytest.approx(remains, rel=0.01)
        # Less of what is erased stays where what is kept weighs less, and the other way round.
        lighter, _ = closed_form.solved(rows, keep=keep / 2, mu=1e-6)
        assert closed_form.left_over(rows, lighter) < remains


def test_what_is_left_over_is_counted_row_by_row() -> None:
    rows = problem(4)
    left, right = closed_form.solved(rows, keep=1.0, mu=0.1)
    stays = sum(
        np.square(m - e @ (left @ right)).sum()
        for e, m in zip(rows.erased_ND, rows.moves_ND, strict=True)
    )
    wanted = stays / np.square(rows.moves_ND).sum()
    assert closed_form.left_over(rows, left) == pytest.approx(wanted)


def test_an_adapter_filled_up_multiplies_to_the_same() -> None:
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((6, 2)), rng.standard_normal((2, 4))
    made = closed_form.filled(A, B, 4)
    assert (made["A"].shape, made["B"].shape) == ((6, 4), (4, 4))
    np.testing.assert_allclose(made["A"] @ made["B"], A @ B, rtol=1e-5, atol=1e-6)
