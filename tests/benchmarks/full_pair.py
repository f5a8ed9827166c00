"""The pair of steps at full size, on the accelerators at hand: seconds, operations, memory.

    python tests/benchmarks/full_pair.py --config configs/nudity.py:flux-dev \
        --config.model.attention=cudnn --config.model.resolution=1024

Needs no download: FLUX.1's shapes are known, and the weights are random numbers made on the
devices. Steps are those of a run, compiled, with their state given away as in a run.
"""

from __future__ import annotations

import dataclasses
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import config_flags

from ea_jax import settings as sections
from ea_jax.costs import aot
from ea_jax.costs import breakdown as profile
from ea_jax.methods.erase_anything.method import optimisers, step_settings
from ea_jax.methods.erase_anything.steps import lower_step, upper_step
from ea_jax.runtime.command_line import parse_flags
from ea_jax.runtime.flops import count_flops
from ea_jax.runtime.mesh import make_mesh
from ea_jax.runtime.metrics import require_finite
from ea_jax.runtime.program import one_line_errors, start_program

FLAGS = flags.FLAGS
log = logging.getLogger("ea_jax")
GIB = 2**30
# Small enough that a stack of FLUX's depth stays finite in bfloat16.
STD = 0.02


def random_weights(template: Any) -> Any:
    """Numbers for the base's shapes, in their shardings: norms' scales 1, the rest normal."""

    def fill(number: int, path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        def make(key: jax.Array) -> jax.Array:
            if path[-1].key == "scale":
                return jnp.ones(leaf.shape, leaf.dtype)
            return STD * jax.random.normal(key, leaf.shape, leaf.dtype)

        return jax.jit(make, out_shardings=leaf.sharding)(jax.random.key(number))

    leaves, tree = jax.tree.flatten_with_path(template)
    return jax.tree.unflatten(tree, [fill(n, *found) for n, found in enumerate(leaves)])


def timed(programs: dict[str, Callable], state: Any, rounds: int) -> dict[str, list[float]]:
    """Seconds of each program, in turn, each on the state that the one before left."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            began = time.perf_counter()
            state, terms = jax.block_until_ready(program(state))
            if number:  # the first is to warm up
                seconds[name].append(time.perf_counter() - began)
            require_finite(number, terms)
    return seconds


def main(_: list[str]) -> int:
    start_program()
    with one_line_errors():
        settings = sections.from_config(FLAGS.config.to_dict())
        mesh = make_mesh(dataclasses.asdict(settings.mesh))
        with jax.set_mesh(mesh):
            measure(settings, aot.abstract(settings, mesh), mesh, FLAGS.rounds)
        return 0
    return 1


def measure(settings: sections.Settings, given: Any, mesh: jax.sharding.Mesh, rounds: int) -> None:
    """Compiles and times the pair; logs what it found.

    Raises:
      ValueError: the run has no upper level.
    """
    if "upper" not in given.batches:
        raise ValueError("no upper step to time; give loss.lora, loss.keep or loss.rsc a weight")
    base = random_weights(given.base)
    state = profile.filled_state(given)
    batches = {name: profile.filled(batch) for name, batch in given.batches.items()}
    jitted = {level.name: level.step for level in given.method.levels}
    programs = {}
    for name, program in jitted.items():
        began = time.monotonic()
        compiled = program.lower(state, base, batches[name]).compile()
        programs[name] = lambda s, f=compiled, b=batches[name]: f(s, base, b)
        log.info("%s compiled in %.0f s", name, time.monotonic() - began)
    seconds = timed(programs, state, rounds)

    # Counted with attention written out: a kernel's inside can't be seen.
    steps = dataclasses.replace(step_settings(settings, given.forward), attention="full")
    total = 0
    for name, step, optimiser in zip(
        batches, (lower_step, upper_step), optimisers(settings), strict=True
    ):

        def bound(*arguments, step=step, optimiser=optimiser):
            return step(*arguments, settings=steps, optimiser=optimiser)

        flops = count_flops(bound, given.state, given.base, given.batches[name])
        total += flops
        log.info(
            "%s  %.3f s (%.3f to %.3f)  %.1f TFLOP",
            name,
            statistics.median(seconds[name]),
            min(seconds[name]),
            max(seconds[name]),
            flops / 1e12,
        )
    pair = sum(statistics.median(own) for own in seconds.values())
    log.info("pair   %.3f s  %.1f TFLOP/s on all devices", pair, total / pair / 1e12)
    for device in jax.local_devices():
        if stats := device.memory_stats():
            log.info("%s  peak %.2f GiB", device, stats["peak_bytes_in_use"] / GIB)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", lock_config=True)
    flags.DEFINE_integer("rounds", 5, "times that each step is run, after one to warm up")
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
