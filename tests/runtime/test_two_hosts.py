"""Two processes that know of each other, as two hosts do: they save, stop and log as one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from places import ROOT

PROGRAM = """
import os, signal, sys
import jax
port, rank, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
import jax.numpy as jnp, numpy as np
from ea_jax.runtime.checkpoints import Checkpoints
from ea_jax.runtime.interrupt import Interrupt
from ea_jax.runtime.mesh import make_mesh, sharding
from ea_jax.runtime.metrics import MetricsLog

mesh = make_mesh({"data": 2})
rows = sharding(mesh, ("batch",))
x = jax.make_array_from_process_local_data(rows, np.full(3, 1.0 + rank, np.float32))
state = {"x": x, "step": np.int64(0)}
with Checkpoints(folder + "/checkpoints") as saved, Interrupt(agree_every=4) as interrupt:
    log = MetricsLog(folder)
    for step in range(1, 100):
        state = {"x": jax.jit(lambda x: x + 1)(state["x"]), "step": np.int64(step)}
        total = float(jax.jit(jnp.sum)(state["x"]))
        log.scalars(step, {"total": total})
        if rank == 1 and step == 5:
            signal.raise_signal(signal.SIGTERM)
        if interrupt.requested(step):
            saved.save(step, state, {"total": total})
            break
    log.close()
    found = saved.restore(state)
    local = [shard.data.tolist() for shard in found.state["x"].addressable_shards]
    print(found.step, interrupt.exit_code, found.metadata["total"], local, found.state["step"])
"""


def test_one_hosts_signal_stops_both_at_one_step_with_one_checkpoint(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(port), str(rank), str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outs = [host.communicate(timeout=120) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], outs
    # 8 steps: three rows that began at 1, three at 2; the signal came at 5, and 8 is agreed on.
    assert [out.splitlines()[-1] for out, _ in outs] == [  # gloo prints its own
        "8 143 57.0 [[9.0, 9.0, 9.0]] 8",
        "8 143 57.0 [[10.0, 10.0, 10.0]] 8",
    ]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
