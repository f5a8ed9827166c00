"""The same weights have the same fingerprint wherever they lie, and no others do."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.runtime import fingerprint as fingerprints
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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8, jnp.bool_])
def test_a_device_and_the_host_find_the_same_sums(dtype, monkeypatch) -> None:
    monkeypatch.setattr(fingerprints, "_AT_ONCE", 100)
    x = (100 * jax.random.normal(jax.random.key(0), (3, 5, 67))).astype(dtype)
    host = fingerprints._host_sums(np.asarray(x))
    assert host.tolist() == fingerprints._device_sums(x).tolist()


def test_eight_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="a is float64"):
        fingerprint({"a": np.zeros(2)})


@pytest.mark.parametrize("factor", [-1.0, 2.0, 0.25])
def test_it_changes_when_a_whole_tensor_is_scaled(factor: float) -> None:
    """Such changes add high powers of two to the bits; over 512 numbers plain sums lose them."""
    weight = jax.random.normal(jax.random.key(0), (32, 64))
    assert fingerprint({"w": weight}) != fingerprint({"w": factor * weight})
