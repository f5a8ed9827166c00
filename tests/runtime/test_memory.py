"""What becomes of memory that a program frees."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# A program with temporaries of 128 MiB, again and again; how often Linux had to bring a page in
# the middle one of its runs.
PROGRAM = """
import itertools, resource, statistics, sys
import jax
import jax.numpy as jnp
from ea_jax.runtime import memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "kept":
    assert memory.keep_freed()
x = jnp.ones((2**13, 2**6))
run = jax.jit(lambda x: (x @ jnp.ones((2**6, 2**12))) @ jnp.ones((2**12, 2**6)))
assert run.lower(x).compile().memory_analysis().temp_size_in_bytes >= 2**27
counts = [faults()]
for _ in range(11):
    run(x).block_until_ready()
    counts.append(faults())
sys.stdout.write(str(statistics.median(b - a for a, b in itertools.pairwise(counts))))
"""


def faults(mode):
    command = [sys.executable, "-c", PROGRAM, mode]
    one_device = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=one_device)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_memory_that_is_kept_brings_no_new_pages():
    usual = faults("as it comes")
    # Once in a while a machine short of memory takes the pages back all the same.
    assert any(faults("kept") < 0.01 * usual for _ in range(3))
