"""Kernels rounded to eight bits: how far, and what stays."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from toy_steps import BASE

from ea_jax.attacks import rounding
from ea_jax.flux.stack import unrolled


@pytest.mark.parametrize("form", rounding.FORMATS)
def test_kernels_move_by_half_a_step_and_all_else_stays(form):
    made = rounding.rounded(BASE, form)
    for path in (("context_embedder",), ("transformer_blocks", "attn", "to_q")):
        mine, full = (functools.reduce(dict.get, path, tree) for tree in (made, BASE))
        off, size = np.abs(mine["kernel"] - full["kernel"]), np.abs(full["kernel"])
        # Half of a step of int8; of e4m3, with three bits behind the point, half of the last, or
        # of the least number that it knows.
        step = {
            "int8": size.max(-2, keepdims=True) / 127,
            "fp8": np.maximum(size / 8, 2.0**-9),
        }[form]
        assert (off <= 0.501 * step).all()
        assert off.max() > 0.1 * np.min(step)
        np.testing.assert_array_equal(mine["bias"], full["bias"])
    beside = rounding.rounded(unrolled(BASE, transposes=True), form)
    for block in beside["transformer_blocks"]:
        layer = block["attn"]["to_q"]
        np.testing.assert_array_equal(layer["kernel_T"], layer["kernel"].T)
