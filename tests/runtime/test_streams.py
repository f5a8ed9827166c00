"""Streams of random numbers are told apart by their keys."""

from __future__ import annotations

import itertools
import re

import jax
import numpy as np
import pytest

from ea_jax.runtime.streams import normal, stream


def test_every_key_has_a_stream_of_its_own():
    keys = [(), (0,), (0, 0), (1,), (1, 0), (1, 0, 0), (0, 1), (2**31, 5)]
    first = {key: stream(3, *key).integers(2**63) for key in keys}
    again = {key: stream(3, *key).integers(2**63) for key in keys}
    assert first == again
    for one, other in itertools.combinations(keys, 2):
        assert first[one] != first[other], (one, other)
    assert stream(4, 1).integers(2**63) != first[1,]


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4, 5)])
def test_normal_has_jaxs_numbers(shape):
    key = jax.random.key(3)
    found, expected = normal(key, shape), jax.random.normal(key, shape)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.xla_text
def test_normal_is_drawn_in_a_row_whatever_its_shape():
    program = jax.jit(lambda key: normal(key, (2, 3, 4, 5))).lower(jax.random.key(0)).as_text()
    assert "120xui32" in program
    assert not re.search(r"x4x5xui(32|64)", program)
