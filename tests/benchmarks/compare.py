"""This project against its peers: time in one process, A B A B; memory each in its own.

    python tests/benchmarks/compare.py --out out/compare.md --plot out/compare.png

Peers: (a) the same algorithm in PyTorch, eager and compiled (`torch_pair.py`), whose losses and
gradients are checked against ours first; (b) the published algorithm's cost structure
(`published_pair.py`); (c) diffusers' own sampling. Needs the extra `bench`, and a quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import agreement
import cases
import contestants
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import ours
import report
import torch
from report import Measured

from ea_jax.runtime.memory import keep_freed

log = logging.getLogger(__name__)
# Part of the command line -> its cases, and who is measured on each, ours first.
PARTS = {
    "tiny": {
        "tiny-1": ("ours", "torch", "torch.compile", "published"),
        "tiny-4": ("ours", "torch", "torch.compile"),
        "tiny-robust": ("ours", "torch", "torch.compile"),
    },
    "wide": {"wide": ("ours", "torch", "torch.compile")},
    "sampling": {
        "sampling-1": ("ours, sampling", "diffusers"),
        "sampling-8": ("ours, sampling", "diffusers"),
    },
}
GEMM_SIDE = 2048


def compare(case: cases.Case, names: tuple[str, ...], folder: Path, options: Any) -> Measured:
    """Checks, times and weighs the contestants of one case."""
    made, failed = {}, {}
    for name in names:
        log.info("%s: %s", case.name, name)
        try:
            made[name] = contestants.make(name, case, folder)
            if name in ("torch", "torch.compile"):
                far = agreement.agree(made["ours"], made[name])
                log.info("  agrees: %s", ", ".join(f"{k} {v:.0e}" for k, v in far.items()))
                failed[f"{name} differs by"] = f"{max(far.values()):.1e}"
            elif name == "diffusers":
                mine, theirs = made[names[0]].paint(), made[name].paint()
                far = float(np.linalg.norm(mine - theirs) / np.linalg.norm(mine))
                failed[f"{name} differs by"] = f"{far:.1e}"
                if not far <= agreement.BAR:
                    raise ValueError(f"diffusers' latents differ by {far:.1e}")
        except torch._dynamo.exc.TorchDynamoException as error:
            # It does not compile here: that is a result, and no reason to lose the others.
            log.warning("  %s does not run: %s", name, str(error).splitlines()[0])
            failed[name] = f"does not compile ({type(error).__name__})"
            made.pop(name, None)
    inner = {name: _warm(contestant, options.seconds) for name, contestant in made.items()}
    times: dict[str, list[float]] = {name: [] for name in made}
    gemm = []
    for turn in range(options.repeats):
        gemm.append(gemm_rate())
        for name, contestant in made.items():
            began = time.perf_counter()
            for step in range(inner[name]):
                contestant.run(step)
            times[name].append((time.perf_counter() - began) / inner[name])
        shown = ", ".join(f"{name} {1000 * t[-1]:.1f} ms" for name, t in times.items())
        log.info("  %d of %d: %s", turn + 1, options.repeats, shown)
    flops = made["ours"].flops() if "ours" in made else None
    ran = list(made)
    made.clear()
    gc.collect()
    memory = {}
    if not options.no_memory:
        for name in ran:
            memory[name] = contestants.measure_alone(
                name,
                case,
                folder,
                runs=options.memory_runs,
                threads=options.threads,
            )
            log.info("  %s alone, MiB: %s", name, memory[name])
    return Measured(case, times, memory, failed, flops, statistics.median(gemm))


def gemm_rate() -> float:
    """FLOP/s of a large float32 product here and now: the better of XLA's and torch's."""
    side = GEMM_SIDE
    a = np.random.default_rng(0).standard_normal((side, side), np.float32)
    a_jax, a_torch = jnp.asarray(a), torch.from_numpy(a)
    product = jax.jit(jnp.matmul)
    best = math.inf
    for run in (lambda: product(a_jax, a_jax).block_until_ready(), lambda: a_torch @ a_torch):
        run()
        for _ in range(3):
            began = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _warm(contestant: Any, seconds: float) -> int:
    """Compiles what is left to compile; how many runs take about that long."""
    contestant.run(0)
    began = time.perf_counter()
    contestant.run(1)
    return max(1, round(seconds / (time.perf_counter() - began)))


@contextlib.contextmanager
def _folders() -> Iterator[Callable[[str], Path]]:
    """Where a case's model lies; the wide one is written when first asked for, then removed."""
    with tempfile.TemporaryDirectory() as scratch:

        def folder(name: str) -> Path:
            if name != "wide":
                return cases.TINY
            if not any(Path(scratch).iterdir()):
                log.info("writing a random model of width 1024")
                ours.write_random_model(cases.WIDE, Path(scratch))
            return Path(scratch)

        yield folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, joined by commas")
    parser.add_argument("--repeats", type=int, default=7, help="rounds of A B A B")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a contestant's turn, about")
    parser.add_argument("--memory-runs", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument(
        "--attention", choices=("full", "chunked"), help="ours, in place of a case's"
    )
    parser.add_argument("--out", type=Path, help="Markdown file")
    parser.add_argument("--plot", type=Path, help="picture of the bars")
    options = parser.parse_args()
    parts = options.only.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"part {unknown[0]!r} is unknown; choose from {list(PARTS)}")
    contestants.quiet(options.threads)
    keep_freed()  # as every run does
    torch.set_num_threads(options.threads)
    if options.plot:
        matplotlib.use("agg")

    found = []
    with _folders() as folder:
        for part in parts:
            for name, names in PARTS[part].items():
                case = cases.cases(options.attention)[name]
                names = tuple(n for n in names if n != "torch.compile" or not options.no_compile)
                found.append(compare(case, names, folder(name), options))
    table = report.markdown(found, _about(options))
    sys.stdout.write(table)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(table, encoding="utf-8")
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        report.plot(found, options.plot)


def _about(options: Any) -> str:
    return (
        f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__} on "
        f"{options.threads} threads, jax {jax.__version__} as it comes, float32, "
        f"median of {options.repeats} rounds."
    )


if __name__ == "__main__":
    main()
