"""Floating-point operations of a traced program, counted on its jaxpr.

XLA's own `cost_analysis` counts a loop's body once, so it is of no use for a model that is a scan
over its blocks. Matrix products and convolutions are counted; the rest is a few percent of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of one call, two for each multiply-add.

    Args:
      function: traced, not run; it may be jitted.
      *args: its arguments; ShapeDtypeStructs will do.
    Raises:
      ValueError: a while loop, whose number of turns is not known before it runs.
    """
    # A jitted one is not wrapped in another: inside of one it may have no compiler options.
    jitted = function if hasattr(function, "trace") else jax.jit(function)
    return _count(jitted.trace(*args).jaxpr.jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = _shape(equation.invars[0])
        out = math.prod(_shape(equation.outvars[0]))
        return 2 * out * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = _shape(equation.invars[1])
        out_channels = kernel[params["dimension_numbers"].rhs_spec[0]]
        out = math.prod(_shape(equation.outvars[0]))
        return 2 * out * math.prod(kernel) // out_channels
    if name == "while":
        raise ValueError("a while loop has no known number of turns; count its body by itself")
    if name == "scan":
        return params["length"] * _count(params["jaxpr"].jaxpr)
    if name == "cond":
        return max(_count(branch.jaxpr) for branch in params["branches"])
    return sum(_count(inner) for inner in _inner(params))


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
    """Jaxprs that a call primitive (jit, checkpoint, custom derivatives, ...) runs once."""
    found = []
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            found.append(value)
    return found


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape
