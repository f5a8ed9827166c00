"""A mesh changes where numbers are computed, not the numbers."""

from __future__ import annotations

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ea_jax.runtime import mesh as meshes

SHAPES = [
    {"data": 1, "fsdp": 1, "tensor": 1},
    {"data": 8, "fsdp": 1, "tensor": 1},
    {"data": 1, "fsdp": 8, "tensor": 1},
    {"data": 1, "fsdp": 1, "tensor": 8},
    {"data": 2, "fsdp": 2, "tensor": 2},
]


def test_an_axis_left_out_is_one() -> None:
    assert dict(meshes.make_mesh({"tensor": 4}).shape) == {"data": 1, "fsdp": 1, "tensor": 4}


def test_minus_one_takes_all_devices_that_are_left() -> None:
    assert dict(meshes.make_mesh({"data": -1, "tensor": 2}).shape) == {
        "data": 4,
        "fsdp": 1,
        "tensor": 2,
    }


def test_idle_devices_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        mesh = meshes.make_mesh({})
    assert mesh.size == 1
    assert "leaves 7 devices idle" in caplog.text


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"tensors": 2}, "'tensors' is unknown"),
        ({"tensor": 16}, "needs 16 devices and 8 are here"),
        ({"data": -1, "tensor": 3}, "doesn't divide 8 devices"),
        ({"data": -1, "fsdp": -1}, "at most one of them -1"),
        ({"data": 0}, "sizes of 1 or more"),
    ],
)
def test_a_mesh_that_cannot_be_says_why(shape: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        meshes.make_mesh(shape)


def test_the_batch_is_split_over_data_and_fsdp_and_heads_over_tensor() -> None:
    assert meshes.spec(("batch", None, "heads")) == PartitionSpec(("data", "fsdp"), None, "tensor")
    with pytest.raises(ValueError, match="'head' has no rule"):
        meshes.spec(("head",))


def test_a_size_that_does_not_divide_is_named() -> None:
    mesh = meshes.make_mesh({"tensor": 8})
    assert meshes.sharding(mesh, ("model", "heads"), (3, 24)).spec == PartitionSpec(
        "fsdp", "tensor"
    )
    with pytest.raises(ValueError, match="'heads' of size 12 doesn't split"):
        meshes.sharding(mesh, ("model", "heads"), (3, 12))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_mesh_gives_the_numbers_of_one_device(shape: dict[str, int]) -> None:
    """A two-layer network with a padded batch of 5: its loss and gradient."""
    rng = np.random.default_rng(0)
    up, down = rng.normal(size=(2, 16, 32)).astype(np.float32)
    x_BD = rng.normal(size=(5, 16)).astype(np.float32)

    def loss(weights: dict, x_BD: jax.Array, weight_B: jax.Array) -> jax.Array:
        hidden = meshes.constrain(jax.nn.gelu(x_BD @ weights["up"]), ("batch", "mlp"))
        out_BD = meshes.constrain(hidden @ weights["down"], ("batch", None))
        return meshes.weighted_mean(jnp.square(out_BD).mean(-1), weight_B)

    weights = {"up": up, "down": down.T}
    expected = jax.jit(jax.value_and_grad(loss))(weights, jnp.asarray(x_BD), jnp.ones(5))

    mesh = meshes.make_mesh(shape)
    places = {
        "up": meshes.sharding(mesh, ("model", "mlp"), up.shape),
        "down": meshes.sharding(mesh, ("mlp", "model"), down.T.shape),
    }
    with jax.set_mesh(mesh):
        padded_BD, weight_B = meshes.pad_rows(jnp.asarray(x_BD), meshes.batch_parts(mesh))
        rows = meshes.sharding(mesh, ("batch",), weight_B.shape)
        got = jax.jit(jax.value_and_grad(loss), out_shardings=(None, places))(
            jax.device_put(weights, places),
            jax.device_put(padded_BD, rows),
            jax.device_put(weight_B, rows),
        )
    assert got[1]["up"].sharding.is_equivalent_to(places["up"], 2)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())


def test_padding_copies_the_last_row_with_weight_zero() -> None:
    batch, weight_B = meshes.pad_rows({"x": jnp.array([[1], [2], [3]])}, 4)
    assert batch["x"].tolist() == [[1], [2], [3], [3]]
    assert weight_B.tolist() == [1, 1, 1, 0]
    assert meshes.weighted_mean(jnp.array([1.0, 2.0, 6.0, 100.0]), weight_B) == 3


def test_a_batch_that_divides_is_left_alone() -> None:
    x = jnp.ones((4, 2))
    batch, weight_B = meshes.pad_rows(x, 2)
    assert batch is x
    assert weight_B.tolist() == [1, 1, 1, 1]


def test_arrays_with_different_rows_are_no_batch() -> None:
    with pytest.raises(ValueError, match="one number of rows"):
        meshes.pad_rows({"x": jnp.ones(3), "y": jnp.ones(4)}, 2)


def test_a_batch_for_one_device_stays_in_host_memory_until_a_program_takes_it() -> None:
    batch = {"rows": np.ones((4, 3)), "seed": np.uint32(1)}
    kept = meshes.put_rows(meshes.make_mesh({}), batch)
    assert all(isinstance(leaf, np.ndarray) for leaf in kept.values())
    split = meshes.put_rows(meshes.make_mesh({"data": 2}), batch)
    assert split["rows"].sharding.spec == PartitionSpec(("data", "fsdp"))
    assert split["seed"].sharding.spec == PartitionSpec()
