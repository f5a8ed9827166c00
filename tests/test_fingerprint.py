"""The same weights have the same fingerprint wherever they lie, and no others do."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.runtime.fingerprint import fingerprint


def weights() -> dict[str, Any]:
    return {
        "a": {"kernel": jnp.arange(16.0).reshape(8, 2) + 1},
        "b": {"kernel": jnp.ones((4, 4), jnp.bfloat16), "bias": jnp.zeros(3)},
    }


def test_it_does_not_depend_on_sharding_or_device() -> None:
    mesh = jax.make_mesh((8,), ("x",))
    split = weights()
    split["a"]["kernel"] = jax.device_put(
        split["a"]["kernel"], jax.sharding.NamedSharding(mesh, jax.P("x"))
    )
    split["b"] = jax.device_put(split["b"], jax.devices()[1])
    host = jax.tree.map(np.asarray, weights())
    assert fingerprint(weights()) == fingerprint(split) == fingerprint(host)
    assert len(fingerprint(host)) == 16


@pytest.mark.parametrize("change", ["a bit", "two numbers swapped", "dtype", "shape", "name"])
def test_it_changes_with(change: str) -> None:
    other = weights()
    kernel = other["a"]["kernel"]
    match change:
        case "a bit":
            other["a"]["kernel"] = kernel.at[7, 1].set(jnp.nextafter(kernel[7, 1], jnp.inf))
        case "two numbers swapped":
            other["a"]["kernel"] = kernel[::-1]
        case "dtype":
            other["b"]["bias"] = jnp.zeros(3, jnp.int32)  # the same bits
        case "shape":
            other["a"]["kernel"] = kernel.reshape(4, 4)
        case "name":
            other["c"] = other.pop("b")
    assert fingerprint(other) != fingerprint(weights())


def test_eight_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="a is float64"):
        fingerprint({"a": np.zeros(2)})


@pytest.mark.parametrize("factor", [-1.0, 2.0, 0.25])
def test_it_changes_when_a_whole_tensor_is_scaled(factor: float) -> None:
    """Such changes add high powers of two to the bits; over 512 numbers plain sums lose them."""
    weight = jax.random.normal(jax.random.key(0), (32, 64))
    assert fingerprint({"w": weight}) != fingerprint({"w": factor * weight})
