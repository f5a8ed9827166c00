"""What becomes of memory that a process frees."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Writes 64 MiB and frees them, ten times; how often Linux had to bring a page.
PROGRAM = """
import resource, sys
import numpy as np
from ea_jax.runtime import memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "kept":
    assert memory.keep_freed()
np.ones(2**23)
before = faults()
for _ in range(10):
    np.ones(2**23)
sys.stdout.write(str(faults() - before))
"""


def faults(mode):
    command = [sys.executable, "-c", PROGRAM, mode]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_memory_that_is_kept_brings_no_new_pages():
    assert faults("kept") < 0.01 * faults("as it comes")
