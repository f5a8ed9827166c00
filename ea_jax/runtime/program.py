"""What every program of the package does at its start and at its end.

if __name__ == "__main__":
    with one_line_errors():
        start_program()
        main()
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.errors import JaxRuntimeError

# What a user's value, file or disk can cause. Anything else is a fault of the program, and shows
# where it is.
EXPECTED = (ValueError, OSError, FloatingPointError)
STOPPED = 130  # what a shell expects of a program that Ctrl-C ended
# New objects per look for garbage, and looks per look at older ones.
COLLECT_AT = (50_000, 20, 20)
# Set to anything: the traceback of those, too.
TRACEBACK = "EA_JAX_TRACEBACK"
# Of a GPU's memory; JAX by itself takes 0.75. The rest is for the driver and its libraries.
GPU_SHARE = 0.9
_SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
# What a run with a config does where memory runs out.
TRAIN_IN_LESS = (
    "set model.remat=block or model.dtype=bfloat16, make optim.batch, sample.batch or "
    "model.resolution smaller, or spread the model over more devices with mesh.fsdp"
)


def start_program(level: int = logging.INFO) -> None:
    """Messages alone, on the error stream, of libraries only warnings; garbage looked for seldom.

    JAX traces a program into very many objects, most of which stay. Looking for garbage every 700
    new ones, as Python does by itself, takes a sixth of the time of tracing a pair of steps.

    Of a GPU's memory JAX may take `GPU_SHARE`, unless one of its own variables says how much. It
    reads them when it looks for devices.
    """
    if not any(name in os.environ for name in _SHARES):
        os.environ[_SHARES[0]] = str(GPU_SHARE)
    gc.set_threshold(*COLLECT_AT)
    logging.basicConfig(level=level, format="%(message)s", force=True)
    for library in ("absl", "jax", "orbax", "httpx", "huggingface_hub", "matplotlib", "PIL"):
        logging.getLogger(library).setLevel(logging.WARNING)


@contextlib.contextmanager
def one_line_errors(less: str = "use a machine with more") -> Iterator[None]:
    """Ends the program with `error: ...` and code 1 where the user can mend what is wrong.

    Ctrl-C ends it with one line, too.

    Args:
      less: what to do where memory runs out.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command starts it again\n")
        raise SystemExit(STOPPED) from None
    except Exception as error:
        text = _said(error, less)
        if text is None or os.environ.get(TRACEBACK):
            raise
        raise SystemExit(f"error: {text}") from None


def _said(error: Exception, less: str) -> str | None:
    """One line for what a user can mend; None for a fault of the program."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, EXPECTED):
        return text
    # What XLA says of a device's memory, and NumPy of the host's.
    of_device = isinstance(error, JaxRuntimeError) and text.startswith("RESOURCE_EXHAUSTED")
    if of_device or isinstance(error, MemoryError):
        return f"out of {'device' if of_device else 'host'} memory ({text[:120]}); {less}"
    if _is_of_backend(error):
        asked = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        reason = "" if isinstance(error, AssertionError) else f" ({text.partition(' (set')[0]})"
        return (
            f"JAX_PLATFORMS={asked} asks for a backend that can't be used here{reason}; install "
            "JAX for it (jax[cuda12], jax[tpu]), set JAX_PLATFORMS=cpu, or unset it to take what "
            "is here"
        )
    return None


def _is_of_backend(error: Exception) -> bool:
    """Whether JAX found no backend: a bare AssertionError for CUDA without its plugin."""
    if isinstance(error, AssertionError):
        frames = traceback.extract_tb(error.__traceback__)
        return Path(frames[-1].filename).name == "xla_bridge.py"
    return isinstance(error, RuntimeError) and "Unable to initialize backend" in str(error)
