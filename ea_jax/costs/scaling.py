"""How the cost of a step grows: with pixels, text, the concept's tokens, and devices.

Of a method with several programs a step, the first is looked at: EraseAnything's lower step.

    ea-jax costs scaling --config configs/nudity.py:flux-dev --out out/scaling.png
    ea-jax costs scaling --config configs/nudity.py --measured --out out/measured.png

The first counts operations on the jaxpr, and compiles for fake devices to see what each of them
computes and what it receives. The second runs the step on the machine at hand.
"""

from __future__ import annotations

import dataclasses
import logging
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib.figure
import numpy as np
from absl import app, flags
from jax.sharding import Mesh

from convert.disk import draft
from ea_jax import settings as sections
from ea_jax.costs.aot import abstract
from ea_jax.costs.breakdown import WEIGHT, filled, filled_state, function_of, with_terms
from ea_jax.costs.shapes import Shapes
from ea_jax.methods.method import Level
from ea_jax.runtime import compiler, config_file, memory
from ea_jax.runtime.command_line import parse_flags
from ea_jax.runtime.flops import count_flops
from ea_jax.runtime.hlo import Hlo
from ea_jax.runtime.mesh import make_mesh
from ea_jax.runtime.program import TRAIN_IN_LESS, one_line_errors, start_program
from ea_jax.settings import Settings

FLAGS = flags.FLAGS
_log = logging.getLogger(__name__)
Config = dict[str, Any]

# What is varied, one at a time, from the config's own values.
SIDES = (16, 24, 32, 48, 64)  # of the square of image tokens: 256 to 4096 of them
TEXT_TOKENS = (64, 128, 256, 384, 512)
CONCEPT_TOKENS = (1, 2, 4, 8, 16)
DEVICES = (1, 2, 4, 8)
MESH_AXES = ("tensor", "fsdp")


def counted(config: Config) -> dict[str, tuple[Sequence[int], dict[str, list[float]]]]:
    """Operations as each size grows: {size: (values, TFLOP by `_variants`)}."""
    found = {}
    for label, (key, values) in _sizes(config).items():
        counts: dict[str, list[float]] = {}
        for value in values:
            for name, settings in _variants(
                sections.from_config(_with(config, key, value))
            ).items():
                step, arguments = _program(abstract(settings, _one_device()))
                counts.setdefault(name, []).append(count_flops(step, *arguments) / 1e12)
        found[label] = (values, counts)
    return found


def over_devices(config: Config) -> dict[str, list[tuple[int, float, float]]]:
    """What each device does: {mesh axis: [(devices, its TFLOP, GB that it receives)]}.

    Compiled for as many fake devices of this machine; sizes that don't divide are left out.
    """
    found: dict[str, list[tuple[int, float, float]]] = {axis: [] for axis in MESH_AXES}
    # A row for each device.
    for key in ("optim.batch", "data.pool"):
        config = _with(config, key, max(DEVICES))
    settings = next(iter(_variants(sections.from_config(config)).values()))
    for axis in MESH_AXES:
        for count in DEVICES:
            mesh = make_mesh({axis: count}, jax.devices()[:count])
            try:
                given = abstract(settings, mesh)
            except ValueError as error:
                _log.info("%d devices along %s: %s", count, axis, error)
                continue
            with jax.set_mesh(mesh):
                step, arguments = _program(given)
                compiled = compiler.jit(step, mesh).lower(*arguments).compile()
            program = Hlo(compiled.as_text() or "")
            received = sum(program.collective_bytes().values())
            found[axis].append((count, program.flops() / 1e12, received / 1e9))
            _log.info("compiled for %d devices along %s", count, axis)
    return found


@dataclasses.dataclass(frozen=True)
class Run:
    """A step that was run.

    Attributes:
      tokens: of image and text together.
      flops: operations.
      seconds: the median.
      temporaries: bytes.
    """

    tokens: int
    flops: int
    seconds: float
    temporaries: int


def measured(config: Config, *, rounds: int) -> dict[str, list[Run]]:
    """Runs the step, one row a batch, on random numbers at every size, `rounds` times in turn."""
    config = _with(config, "optim.batch", 1)
    found, base = {}, None
    sizes = _sizes(config)
    for label in ("pixels", "text tokens"):
        key, values = sizes[label]
        programs, runs = [], []
        for value in values:
            varied = sections.from_config(_with(config, key, value))
            settings = next(iter(_variants(varied).values()))
            given = abstract(settings, _one_device())
            step, (_, _, batch) = _program(given)
            base = filled(given.base) if base is None else base
            arguments = (filled_state(given), base, filled(batch))
            compiled = compiler.jit(step).lower(*arguments).compile()
            jax.block_until_ready(compiled(*arguments))
            tokens = given.noise_BSC.shape[1] + settings.model.text_length
            programs.append((compiled, arguments))
            memory: Any = compiled.memory_analysis()
            flops = count_flops(step, *arguments)
            runs.append(Run(tokens, flops, 0.0, memory.temp_size_in_bytes))
            _log.info("compiled for %s = %d", label, value)
        seconds: list[list[float]] = [[] for _ in runs]
        for _ in range(rounds):
            for own, (compiled, arguments) in zip(seconds, programs, strict=True):
                began = time.perf_counter()
                jax.block_until_ready(compiled(*arguments))
                own.append(time.perf_counter() - began)
        found[label] = [
            dataclasses.replace(run, seconds=statistics.median(own))
            for run, own in zip(runs, seconds, strict=True)
        ]
    return found


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """a, b of y = a + b x by least squares of the relative error, and the largest such error."""
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    (a, b), *_ = np.linalg.lstsq(np.stack([1 / ys, xs / ys], 1), np.ones(len(ys)))
    return float(a), float(b), float(np.abs((a + b * xs) / ys - 1).max())


def table(found: dict[str, list[Run]]) -> str:
    """Markdown: each run, and how far the two laws are from them."""
    lines = ["| varied | tokens | TFLOP | ms | temporaries MiB |", "|---|---|---|---|---|"]
    for label, runs in found.items():
        for run in runs:
            lines.append(
                f"| {label} | {run.tokens} | {run.flops / 1e12:.3f} | {1e3 * run.seconds:.1f} "
                f"| {run.temporaries / 2**20:.1f} |"
            )
    said = []
    for label, runs in found.items():
        _, _, time_off = line([run.flops for run in runs], [run.seconds for run in runs])
        _, _, memory_off = line([run.tokens for run in runs], [run.temporaries for run in runs])
        said.append(
            f"{label}: time is a + b FLOP within {time_off:.0%}, temporaries are a + b tokens "
            f"within {memory_off:.0%}"
        )
    return "\n".join([*lines, "", *said]) + "\n"


def plot_counted(path: Path, sizes: dict[str, Any], devices: dict[str, Any]) -> None:
    """Draws `counted` and `over_devices`."""
    panels = len(sizes) + 2
    figure = matplotlib.figure.Figure(figsize=(3.6 * panels, 3.2), layout="constrained")
    axes = figure.subplots(1, panels)
    for axis, (label, (values, counts)) in zip(axes, sizes.items(), strict=False):
        for style, (name, found) in zip(("o-", "x--"), counts.items(), strict=False):
            axis.plot(values, found, style, label=name)
        axis.set(xlabel=label, ylabel="TFLOP of a step", ylim=(0, None))
        axis.legend()
    for axis, place, label in ((axes[-2], 1, "TFLOP of a device"), (axes[-1], 2, "GB received")):
        for name, rows in devices.items():
            axis.plot([row[0] for row in rows], [row[place] for row in rows], "o-", label=name)
        axis.set(xlabel="devices", ylabel=label, ylim=(0, None))
        axis.legend()
    _write(figure, path)


def plot_measured(path: Path, found: dict[str, list[Run]]) -> None:
    """Draws `measured`, and the laws it follows."""
    figure = matplotlib.figure.Figure(figsize=(4 * 2 * len(found), 3.2), layout="constrained")
    axes = iter(figure.subplots(1, 2 * len(found)))
    for label, runs in found.items():
        panels = (
            ("TFLOP", [r.flops / 1e12 for r in runs], "seconds", [r.seconds for r in runs]),
            (
                "tokens",
                [r.tokens for r in runs],
                "temporaries MiB",
                [r.temporaries / 2**20 for r in runs],
            ),
        )
        for x_label, x, y_label, y in panels:
            a, b, off = line(x, y)
            axis = next(axes)
            axis.plot(x, y, "o", label=label)
            axis.plot(x, [a + b * each for each in x], "-", label=f"a + b x, within {off:.0%}")
            axis.set(xlabel=x_label, ylabel=y_label, xlim=(0, None), ylim=(0, None))
            axis.legend()
    _write(figure, path)


def _variants(settings: Settings) -> dict[str, Settings]:
    """What is compared, by its name: EraseAnything with its attention loss and without."""
    # Where paths are sampled anew (`resample`), how long that takes differs from step to step.
    data = dataclasses.replace(settings.data, x_t="pool")
    settings = dataclasses.replace(settings, data=data)
    if settings.method.name != "erase_anything":
        return {settings.method.name: settings}
    return {
        "attention loss on": with_terms(settings, esd=1.0, attn=WEIGHT),
        "off": with_terms(settings, esd=1.0, attn=0.0),
    }


def _program(given: Shapes) -> tuple[Any, tuple[Any, ...]]:
    """The first program of a method's step, and the shapes of what it is given."""
    level: Level | None = next(iter(given.method.levels), None)
    if level is None:
        raise ValueError("a closed form has no steps that could grow; choose another method.name")
    return function_of(level), (given.state, given.base, given.batches[level.name])


def _sizes(config: Config) -> dict[str, tuple[str, Sequence[int]]]:
    """What is varied: {label: (key of the config, its values)}."""
    settings = sections.from_config(config)
    pixels = settings.model.resolution // abstract(settings, _one_device()).forward.grid[0]
    return {
        "pixels": ("model.resolution", tuple(pixels * side for side in SIDES)),
        "text tokens": ("model.text_length", TEXT_TOKENS),
        "concept tokens": ("concept.max_tokens", CONCEPT_TOKENS),
    }


def _one_device() -> Mesh:
    return make_mesh({}, jax.devices()[:1])


def _with(config: Config, key: str, value: Any) -> Config:
    section, name = key.split(".")
    return {**config, section: {**config[section], name: value}}


def _write(figure: matplotlib.figure.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)


def _run(_: list[str]) -> None:
    start_program()
    with one_line_errors(TRAIN_IN_LESS):
        out = Path(FLAGS.out)
        if out.suffix.lower() != ".png":
            raise ValueError(f"--out={out} is no PNG; give a name that ends in .png")
        config = FLAGS.config.to_dict()
        sections.from_config(config)
        if FLAGS.measured:
            memory.keep_freed()  # as every run does
            found = measured(config, rounds=FLAGS.rounds)
            plot_measured(out, found)
            sys.stdout.write(table(found))
            return
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", max(DEVICES))
        plot_counted(out, counted(config), over_devices(config))
        _log.info("%s", out)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    config_file.define()
    flags.DEFINE_bool("measured", False, "run the step here, in place of counting")
    flags.DEFINE_integer("rounds", 5, "runs of each size, of which the median counts", 1)
    flags.DEFINE_string("out", "scaling.png", "PNG to draw")
    app.run(_run, ["ea-jax costs scaling", *arguments], flags_parser=parse_flags)


if __name__ == "__main__":
    main(sys.argv[1:])
