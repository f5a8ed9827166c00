"""Methods of one program a step: what they train, on any mesh, and after any interruption."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
import toy_trained as toy
from toy_steps import BASE

from ea_jax import lora
from ea_jax.flux import axes
from ea_jax.methods import registry
from ea_jax.methods.method import Method
from ea_jax.methods.ready import initial_state, state_shapes
from ea_jax.runtime.checkpoints import Checkpoints
from ea_jax.runtime.mesh import make_mesh, put_rows

STEPS = 4

pytestmark = pytest.mark.long


def of_each_method(fast: Sequence[str]) -> pytest.MarkDecorator:
    """Other methods have states and batches of the same kinds, and tests of their losses."""
    marked = [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in fast)) for name in toy.NAMES
    ]
    return pytest.mark.parametrize("name", marked)


class Run:
    """A method on a mesh of so many devices along (data, fsdp, tensor)."""

    def __init__(self, name: str, shape: tuple[int, int, int] = (1, 1, 1)) -> None:
        sizes = dict(zip(("data", "fsdp", "tensor"), shape, strict=True))
        self.mesh = make_mesh(sizes, jax.devices()[: np.prod(shape)])
        self.ready = toy.ready(name, self.mesh)
        self.method: Method = registry.chosen(self.ready.settings).make(self.ready)

    def start(self) -> Any:
        """A state whose adapters change something: every term is then far from rounding."""
        state = initial_state(self.method, self.ready.settings, self.mesh)
        return state.replace(lora=jax.tree.map(lambda x: x + 0.05, state.lora))

    def steps(self, state: Any, steps: range) -> tuple[Any, list[dict[str, float]]]:
        """The state after some steps, and the terms of each."""
        (level,), found = self.method.levels, []
        with jax.set_mesh(self.mesh):
            base = jax.device_put(BASE, axes.shardings(self.mesh, BASE))
            for step in steps:
                state = self.method.before(state, base, step)
                state, terms = level.step(state, base, put_rows(self.mesh, level.batch(step)))
                found.append({key: float(value) for key, value in terms.items()})
        return state, found


@functools.cache
def alone(name: str) -> Run:
    """On one device."""
    return Run(name)


@functools.cache
def whole(name: str) -> tuple[Any, Any, list[dict[str, float]]]:
    """A run on one device: its state at the start and at the end, and the terms of its steps."""
    run = alone(name)
    start = jax.device_get(run.start())
    end, terms = run.steps(run.start(), range(STEPS))
    return start, jax.device_get(end), terms


@of_each_method(["esd", "mace"])
def test_every_adapter_of_the_scope_is_trained(name: str) -> None:
    start, end, terms = whole(name)
    scope = toy.ready(name).settings.lora.scope
    assert len(jax.tree.leaves(start.lora)) == 2 * len(lora.targets(scope, BASE))
    for before, after in zip(jax.tree.leaves(start.lora), jax.tree.leaves(end.lora), strict=True):
        # Of every block, and every row of it.
        assert (np.asarray(before) != np.asarray(after)).reshape(len(before), -1).any(-1).all()
    assert all(np.isfinite(list(each.values())).all() for each in terms)
    assert all(each["grad_norm"] > 0 for each in terms)


@of_each_method(["esd"])
def test_a_run_that_was_cut_off_ends_in_the_same_bits(name: str, tmp_path) -> None:
    _, end, terms = whole(name)
    first = alone(name)
    state, _ = first.steps(first.start(), range(2))
    with Checkpoints(tmp_path / "there") as checkpoints:
        checkpoints.save(2, state, {})
    # Made anew, as by another process: only the checkpoint is left.
    second = Run(name)
    with Checkpoints(tmp_path / "there") as checkpoints:
        restored = checkpoints.restore(
            state_shapes(second.method, second.ready.settings, second.mesh)
        )
    assert restored is not None
    state, rest = second.steps(restored.state, range(2, STEPS))
    assert rest == terms[2:]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), end)


@of_each_method(["esd"])
def test_a_mesh_of_eight_trains_what_one_device_trains(name: str) -> None:
    _, end, terms = whole(name)
    run = Run(name, (2, 2, 2))
    state, found = run.steps(run.start(), range(STEPS))
    for a, b in zip(found, terms, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    size = max(np.abs(leaf).max() for leaf in jax.tree.leaves(end.lora))
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-3 * size)
    jax.tree.map(close, state.lora, end.lora)
