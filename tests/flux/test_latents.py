"""Packing, noise and sizes of latents."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.flux import latents


def test_a_token_holds_a_patch_with_the_channel_outermost():
    z_BhwC = jnp.arange(2 * 4 * 2).reshape(1, 4, 2, 2)  # 4 rows, 2 columns, 2 channels
    packed = latents.pack(z_BhwC)
    assert packed.shape == (1, 2, 8)
    assert packed[0, 0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_unpack_is_the_inverse_of_pack_for_non_square_latents():
    z_BhwC = jax.random.normal(jax.random.key(0), (3, 4, 10, 16))
    grid = latents.grid((4, 10))
    assert grid == (2, 5)
    np.testing.assert_array_equal(latents.unpack(latents.pack(z_BhwC), grid), z_BhwC)


def test_a_picture_s_noise_depends_on_its_seed_alone():
    alone = latents.noise([7], (4, 6, 16))
    among = latents.noise([1, 7, 2], (4, 6, 16))
    np.testing.assert_array_equal(alone[0], among[1])
    plain = jax.random.normal(jax.random.key(7), (4, 6, 16))
    np.testing.assert_array_equal(alone[0], plain)
    assert abs(float(among.std()) - 1) < 0.05


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_named(seed):
    with pytest.raises(ValueError, match=f"seed {seed} is out of range"):
        latents.noise([0, seed], (2, 2, 1))


def test_the_size_of_a_flux_picture():
    assert latents.size(1024, 512, 8) == (128, 64)


@pytest.mark.parametrize(
    ("height", "width", "said"),
    [
        (1000, 512, "height=1000 is not a multiple of 16 .* try 992 or 1008"),
        (512, 8, "width=8 is not a multiple of 16 .* try 16 or 32"),
        (0, 512, "height=0 is not"),
    ],
)
def test_a_size_that_cannot_be_packed_is_named_with_its_neighbours(height, width, said):
    with pytest.raises(ValueError, match=said):
        latents.size(height, width, 8)
