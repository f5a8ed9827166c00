"""Who can be measured, and each in a process of its own for the memory it takes.

    python tests/benchmarks/contestants.py torch tiny-1 --runs 3

prints as JSON, in MiB, the resident memory after loading, its peak (compilation included), and its
peak in the runs after the first. All of them hold the libraries.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import cases

from ea_jax.runtime.memory import keep_freed

# Name -> module and class; each is made with (case, folder) and has `run(step)`.
CONTESTANTS = {
    "ours": ("ours", "Pair"),
    "torch": ("torch_pair", "Pair"),
    "torch.compile": ("torch_pair", "CompiledPair"),
    "published": ("published_pair", "Pair"),
    "ours, sampling": ("ours_sampling", "Sampler"),
    "diffusers": ("diffusers_sampling", "Sampler"),
}


def make(name: str, case: cases.Case, folder: Path) -> Any:
    module, kind = CONTESTANTS[name]
    return getattr(importlib.import_module(module), kind)(case, folder)


def quiet(threads: int) -> None:
    """Offline, silent libraries; torch on that many threads once it is imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["DIFFUSERS_VERBOSITY"] = os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for library in ("jax", "absl", "httpx", "matplotlib", "torch"):
        logging.getLogger(library).setLevel(logging.ERROR)


class _NoTorch:
    """An import finder that finds no torch."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(name)


def hide_torch() -> None:
    """transformers imports torch where it finds it; a user of this project need not have it."""
    find_spec = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: (
        None if name == "torch" else find_spec(name, *rest)
    )
    sys.meta_path.insert(0, _NoTorch())  # pyright: ignore


def measure_alone(
    name: str, case: cases.Case, folder: Path, *, runs: int, threads: int
) -> dict[str, float]:
    """Runs a contestant in a new process; returns what that prints.

    Ours runs twice; `second` is its peak where the first start left its compiled programs.

    Raises:
      RuntimeError: a process failed.
    """
    if not name.startswith("ours"):
        return _alone(name, case, folder, runs=runs, threads=threads, cache=None)
    with tempfile.TemporaryDirectory() as cache:
        first, second = (
            _alone(name, case, folder, runs=runs, threads=threads, cache=cache) for _ in range(2)
        )
    return {**first, "second": second["peak"]}


def _alone(
    name: str, case: cases.Case, folder: Path, *, runs: int, threads: int, cache: str | None
) -> dict[str, float]:
    command = [sys.executable, __file__, name, case.name, "--folder", folder, "--runs", runs]
    command += ["--threads", threads, "--attention", case.settings.model.attention]
    environment = dict(os.environ)
    if cache:
        environment["JAX_COMPILATION_CACHE_DIR"] = cache
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{name} on {case.name} failed alone: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Resident memory of one contestant.")
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("case", choices=cases.cases())
    parser.add_argument("--folder", type=Path, default=cases.TINY, help="of the model")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--attention", choices=("full", "chunked"), help="ours")
    options = parser.parse_args()
    quiet(options.threads)
    if options.name.startswith("ours"):
        hide_torch()
        keep_freed()  # as every run does
    contestant = make(options.name, cases.cases(options.attention)[options.case], options.folder)
    found = {"loaded": _resident_peak()}
    contestant.run(0)
    found["peak"] = _resident_peak()
    _forget_peak()
    for step in range(1, options.runs):
        contestant.run(step)
    found["steady"] = _resident_peak()
    found["peak"] = max(found["peak"], found["steady"])
    print(json.dumps({name: size / 2**20 for name, size in found.items()}))


def _forget_peak() -> None:
    """Gives freed memory back to Linux and starts its record of the largest size anew."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _resident_peak() -> int:
    """Bytes of this program at its largest, since it began or since `_forget_peak`.

    Not `ru_maxrss`, which begins with the size of the process that started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
