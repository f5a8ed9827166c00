"""Memory of this process on the host: how much it has needed, and what becomes of freed parts."""

from __future__ import annotations

import ctypes
import resource
import sys

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KEPT = 512 * 2**20


def peak_host_bytes() -> int:
    """The largest resident size this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes everywhere but on macOS.
    return peak if sys.platform == "darwin" else peak * 1024


def keep_freed() -> bool:
    """Lets the process keep up to 512 MiB that it freed, for programs that run on the CPU.

    XLA asks for a program's temporaries anew at each run. Large ones come from Linux page by page,
    each cleared and mapped, which takes a tenth of the time of flux-tiny's pair of steps. Other
    systems, and other C libraries than glibc, are left as they are.

    Returns:
      Whether it did.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
