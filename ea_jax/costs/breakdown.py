"""Where a pair of steps spends its time: the attention loss, and each term beside it.

    ea-jax costs breakdown --config configs/nudity.py --trace out/trace

Each row is the real step with other terms switched off, or one of its forwards alone; all rows of
a round run one after the other and the median over rounds is shown, so that a busy machine slows
all of them alike. Operations are counted on the jaxpr, temporaries are the compiler's.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from ea_jax import settings as sections
from ea_jax.costs.shapes import Shapes, shapes
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.sharded import unrolled_on
from ea_jax.flux.transformer import TransformerConfig
from ea_jax.methods.forward import velocity_of
from ea_jax.methods.method import Level
from ea_jax.runtime import compiler, config_file, memory
from ea_jax.runtime.command_line import parse_flags
from ea_jax.runtime.flops import count_flops
from ea_jax.runtime.mesh import make_mesh
from ea_jax.runtime.program import TRAIN_IN_LESS, one_line_errors, start_program
from ea_jax.settings import Settings

FLAGS = flags.FLAGS
_log = logging.getLogger(__name__)
MIB = 2**20
# Of the attention loss, where it is on.
WEIGHT = 0.1


@dataclasses.dataclass(frozen=True)
class Part:
    """A program, and what it is given.

    Attributes:
      name: in the table.
      function: traced and jitted, nothing donated.
      arguments: concrete arrays.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a part costs: seconds (median), operations, bytes read and written, temporary bytes.

    `traffic` is the least that it can be: arguments and results, once each.
    """

    name: str
    seconds: float
    flops: int
    traffic: int
    temporaries: int


def filled(tree: Any, *, seed: int = 0) -> Any:
    """Numbers for a tree of ShapeDtypeStructs: normal floats, ones as integers, True."""
    rng = np.random.default_rng(seed)

    def fill(leaf: Any) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype)
        return jnp.ones(leaf.shape, leaf.dtype)

    return jax.tree.map(fill, tree)


def filled_state(given: Shapes) -> Any:
    """Numbers for a run's state; none is negative, as optimisers' mean squares are not."""
    return jax.tree.map(jnp.abs, filled(given.state))


def parts(settings: Settings, base: Any, model: TransformerConfig, given: Shapes) -> list[Part]:
    """The rows of the table: one forward, and each program of a step.

    Args:
      settings: of the run.
      base: weights of the transformer.
      model: its shape.
      given: the run's shapes.
    """
    # Of the first program's prompts; a closed form has none, and is compared to painting.
    text = filled(next(iter(given.batches.values()), given).text)
    rows, static = len(text.t5_BTD), given.forward
    x_BSC = filled(jax.ShapeDtypeStruct((rows, *static.latent_shape), jnp.float32))

    def forward(base, x_BSC, text):
        return velocity_of(base, None, x_BSC, jnp.full(rows, 0.5), text, static)[0]

    found = [Part("one forward", forward, (base, x_BSC, text))]
    if settings.method.name == "erase_anything":
        return [*found, *_terms(settings, base, model, given)]
    state = filled_state(given)
    return found + [
        Part(
            f"{level.name} step",
            function_of(level),
            (state, base, filled(given.batches[level.name])),
        )
        for level in given.method.levels
    ]


def function_of(level: Level) -> Callable[..., Any]:
    """A level's step as it is traced: without its donation, so that it can run again."""
    return inspect.unwrap(level.step)


def with_terms(settings: Settings, attention: str | None = None, **weights: float) -> Settings:
    """Settings of EraseAnything with other weights of its terms; one of weight 0 isn't computed."""
    loss = dataclasses.replace(settings.loss, **weights)
    model = dataclasses.replace(settings.model, attention=attention or settings.model.attention)
    return dataclasses.replace(settings, loss=loss, model=model)


def _terms(settings: Settings, base: Any, model: TransformerConfig, given: Shapes) -> list[Part]:
    """EraseAnything's pair with its terms on and off."""
    state, mesh = filled_state(given), make_mesh({})
    settings = with_terms(settings, esd=1.0, attn=WEIGHT)

    def part(title: str, level: str, attention: str | None = None, **weights: Any) -> Part:
        changed = with_terms(settings, attention, **weights)
        made = shapes(changed, model, latent=_latent(given), mesh=mesh)
        (own,) = (found for found in made.method.levels if found.name == level)
        return Part(title, function_of(own), (state, base, filled(made.batches[level])))

    def alone(name: str) -> Part:
        off = dict.fromkeys(("attn", "lora", "keep", "rsc"), 0.0)
        return part(f"upper step, L_{name} alone", "upper", None, **{**off, name: 1.0})

    return [
        part("lower step, attention loss off", "lower", attn=0.0),
        part("lower step, attention loss on", "lower"),
        part("lower step, L_attn alone", "lower", esd=0.0),
        part("lower step, full maps", "lower", "full"),
        part("lower step, full maps, attention loss off", "lower", "full", attn=0.0),
        *(alone(name) for name in ("lora", "keep", "rsc")),
    ]


def measure(found: Sequence[Part], *, rounds: int) -> list[Cost]:
    """Compiles and runs each part `rounds` times, in turn."""
    compiled, costs = [], []
    for part in found:
        program = compiler.jit(part.function).lower(*part.arguments).compile()
        jax.block_until_ready(program(*part.arguments))
        compiled.append(program)
        _log.info("compiled %s", part.name)
    seconds: list[list[float]] = [[] for _ in found]
    for _ in range(rounds):
        for part, program, own in zip(found, compiled, seconds, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(program(*part.arguments))
            own.append(time.perf_counter() - began)
    for part, program, own in zip(found, compiled, seconds, strict=True):
        memory = program.memory_analysis()
        costs.append(
            Cost(
                part.name,
                statistics.median(own),
                count_flops(part.function, *part.arguments),
                memory.argument_size_in_bytes + memory.output_size_in_bytes,
                memory.temp_size_in_bytes,
            )
        )
    return costs


def table(costs: Sequence[Cost]) -> str:
    """Markdown, each row also as a multiple of the first: one forward."""
    lines = [
        "| part | ms | forwards, time | GFLOP | forwards, FLOP | traffic MiB | temporaries MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    first = costs[0]
    for cost in costs:
        cells = [
            cost.name,
            f"{1e3 * cost.seconds:.2f}",
            f"{cost.seconds / first.seconds:.2f}",
            f"{cost.flops / 1e9:.2f}",
            f"{cost.flops / first.flops:.2f}",
            f"{cost.traffic / MIB:.1f}",
            f"{cost.temporaries / MIB:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _latent(given: Shapes) -> tuple[int, int, int]:
    rows, columns = given.forward.grid
    return 2 * rows, 2 * columns, given.forward.model.in_channels // 4


def _run(_: list[str]) -> None:
    start_program()
    with one_line_errors(TRAIN_IN_LESS):
        memory.keep_freed()  # as every run does
        settings = sections.from_config(FLAGS.config.to_dict())
        side = settings.model.resolution
        pipeline = Pipeline(
            settings.model.path, dtype=settings.model.dtype, revision=settings.model.revision
        )
        model, latent = pipeline.transformer_config, pipeline.latent_shape(side, side)
        mesh = make_mesh({})  # one device, whatever the config's mesh
        given = shapes(settings, model, latent=latent, mesh=mesh)
        base = pipeline.load_part("transformer")
        if settings.model.blocks == "unrolled":  # as in a run
            base = unrolled_on(mesh, base)
        found = parts(settings, base, model, given)
        costs = measure(found, rounds=FLAGS.rounds)
        if FLAGS.trace:
            with jax.profiler.trace(FLAGS.trace):
                for part in found[1:][:2][-1:]:
                    jax.block_until_ready(compiler.jit(part.function)(*part.arguments))
        sys.stdout.write(table(costs))
        if FLAGS.out:
            Path(FLAGS.out).write_text(table(costs), "utf-8")


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    config_file.define()
    flags.DEFINE_integer("rounds", 9, "runs of each part, of which the median counts", 1)
    flags.DEFINE_string("trace", None, "folder for a trace that Perfetto or XProf opens")
    flags.DEFINE_string("out", None, "file for the table")
    app.run(_run, ["ea-jax costs breakdown", *arguments], flags_parser=parse_flags)


if __name__ == "__main__":
    main(sys.argv[1:])
