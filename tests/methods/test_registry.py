"""Methods behind one interface: their table, and that what compiles them knows none by name."""

from __future__ import annotations

import jax
import pytest
from toy_steps import SMALL

from configs import soccer
from ea_jax import settings
from ea_jax.costs import breakdown
from ea_jax.costs.shapes import shapes
from ea_jax.methods import registry
from ea_jax.runtime.mesh import make_mesh


def of_method(name: str) -> settings.Settings:
    config = soccer.get_config()
    config.method.name = name
    return settings.from_config(config)


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_methods_state_and_batches_have_shapes_without_a_model(name):
    given = shapes(of_method(name), SMALL, latent=(4, 6, 2), mesh=make_mesh({}, jax.devices()[:1]))
    assert set(given.batches) == {level.name for level in given.method.levels}
    assert bool(given.method.steps) == bool(given.batches)
    for tree in (given.state, given.batches):
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


def test_a_closed_form_has_no_program_to_take_apart_but_one_forward():
    made = of_method("embedder")
    given = shapes(made, SMALL, latent=(4, 6, 2), mesh=make_mesh({}, jax.devices()[:1]))
    base = breakdown.filled(given.base)
    assert [part.name for part in breakdown.parts(made, base, SMALL, given)] == ["one forward"]


def test_an_unknown_method_is_named_with_those_there_are():
    with pytest.raises(settings.SettingsError, match=r"'embeder' is unknown; .*did you mean 'emb"):
        registry.chosen(of_method("embeder"))
