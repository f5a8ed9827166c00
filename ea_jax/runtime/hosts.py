"""Several hosts that run one program: joining them, and what they have to agree on.

Every host runs the same lines. Arrays lie on a mesh over all of them; what the host itself holds
(prompts, words, pictures to keep) each makes alike, and `require_same` checks that it did.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

CLUSTER = "cluster"
_ADDRESS = "--hosts=ADDRESS:PORT,COUNT,INDEX"


def join(hosts: str | None = None) -> None:
    """Makes this process one of several; to be called before any device is used.

    Args:
      hosts: None for a machine of its own; `cluster` where JAX finds the others by itself (TPU
        pods, SLURM, GKE, Open MPI); else `ADDRESS:PORT,COUNT,INDEX`: the first host's address, how
        many there are, and which of them this is.
    Raises:
      ValueError: `hosts` is none of these, or the others aren't found.
    """
    if hosts is None:
        return
    if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    where: dict[str, Any] = {}
    if hosts != CLUSTER:
        where = _parsed(hosts)
    try:
        jax.distributed.initialize(**where)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        way_out = "see that every host can reach the first one's address"
        if hosts == CLUSTER:
            way_out = f"on a cluster that JAX doesn't know, give each process {_ADDRESS}"
        raise ValueError(f"--hosts={hosts}: {reason}; {way_out}") from error


def is_first() -> bool:
    """Whether this host speaks for all: it writes the log."""
    return jax.process_index() == 0


def all_agree(flag: bool) -> bool:
    """Whether it holds on every host. Asked by all of them at once."""
    if jax.process_count() == 1:
        return flag
    return bool(np.all(multihost_utils.process_allgather(np.array(flag))))


def require_same(what: str, value: str, way_out: str) -> None:
    """Raises ValueError on every host unless all came with the same value.

    Args:
      what: the value is, for the message.
      value: of this host.
      way_out: what to give all of them.
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
    found = np.asarray(multihost_utils.process_allgather(digest))
    if differing := np.flatnonzero((found != found[0]).any(-1)).tolist():
        raise ValueError(
            f"hosts {differing} have other {what} than host 0; give all of them {way_out}"
        )


def on_host(x: Any) -> np.ndarray:
    """An array's values, also where its parts lie on several hosts. Called by all of them."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def _parsed(hosts: str) -> dict[str, Any]:
    try:
        address, count, index = hosts.split(",")
        place = {"num_processes": int(count), "process_id": int(index)}
    except ValueError:
        place = {"num_processes": 0, "process_id": 0}
        address = hosts
    if not 0 <= place["process_id"] < place["num_processes"] or ":" not in address:
        raise ValueError(
            f"--hosts={hosts} is neither {CLUSTER!r} nor like {_ADDRESS}, with an INDEX from 0 to "
            "COUNT - 1"
        )
    return {"coordinator_address": address, **place}
