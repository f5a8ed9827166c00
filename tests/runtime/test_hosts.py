"""Several hosts: how they are named, and what they must have in common."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from ea_jax.runtime import hosts


@pytest.mark.parametrize(
    "wrong", ["", "localhost", "localhost:1", "a:1,2", "a:1,2,2", "a,2,0", "a:1,x,0"]
)
def test_hosts_that_can_not_be_are_named(wrong):
    with pytest.raises(ValueError, match=f"--hosts={wrong} is neither 'cluster' nor like"):
        hosts.join(wrong)


def test_where_no_cluster_is_the_way_out_is_an_address(monkeypatch):
    def absent(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", absent)
    with pytest.raises(ValueError, match=r"should be defined; .* --hosts=ADDRESS:PORT,COUNT,INDEX"):
        hosts.join("cluster")
    with pytest.raises(ValueError, match="every host can reach the first one's address"):
        hosts.join("localhost:1,2,0")


def test_hosts_that_differ_are_counted(monkeypatch):
    hosts.require_same("prompts", "alone", "the same")

    def gathered(digest):
        other = digest.copy()
        other[0] ^= 1
        return np.stack([digest, digest, other])

    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(hosts.multihost_utils, "process_allgather", gathered)
    with pytest.raises(ValueError, match=r"hosts \[2\] have other prompts than host 0; give all"):
        hosts.require_same("prompts", "mine", "the same words")


def test_a_thing_holds_if_all_say_so(monkeypatch):
    assert hosts.all_agree(True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for said, holds in (([True, True], True), ([True, False], False)):
        monkeypatch.setattr(
            hosts.multihost_utils, "process_allgather", lambda _, said=said: np.array(said)
        )
        assert hosts.all_agree(True) == holds
