"""Streams of random numbers are told apart by their keys."""

from __future__ import annotations

import itertools

from ea_jax.runtime.streams import stream


def test_every_key_has_a_stream_of_its_own():
    keys = [(), (0,), (0, 0), (1,), (1, 0), (1, 0, 0), (0, 1), (2**31, 5)]
    first = {key: stream(3, *key).integers(2**63) for key in keys}
    again = {key: stream(3, *key).integers(2**63) for key in keys}
    assert first == again
    for one, other in itertools.combinations(keys, 2):
        assert first[one] != first[other], (one, other)
    assert stream(4, 1).integers(2**63) != first[1,]
