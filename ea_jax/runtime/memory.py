"""Memory of this process on the host: how much it has needed, and what becomes of freed parts."""

from __future__ import annotations

import ctypes
import resource
import sys

import jax

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KEPT = 2**31 - 1  # the most that an int of mallopt can say


def peak_host_bytes() -> int:
    """The largest resident size this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes everywhere but on macOS.
    return peak if sys.platform == "darwin" else peak * 1024


def keep_freed() -> bool:
    """Lets the process keep up to 2 GiB that it freed, where its programs run on the CPU.

    XLA asks for a program's temporaries anew at each run. Large ones come from Linux page by page,
    each cleared and mapped, which takes 6 to 10 % of a pair of steps. Of what glibc keeps, only
    the main thread gets more than 64 MiB in one piece: programs then run on the thread that calls
    them, unless there are several devices. Other systems, and other C libraries than glibc, keep
    what they free as they do.

    To be called before JAX has looked for its devices, after `jax.distributed` if there is any.

    Returns:
      Whether it did.
    """
    # Of programs on the CPU alone.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() != "cpu":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
