"""Compiles the real steps for a chip that isn't here, and says whether they fit.

    ea-jax costs aot --config configs/nudity.py:flux-dev --topology v5e-8
    ea-jax costs aot --config configs/nudity.py:flux-dev --sweep

From shapes alone: no weights, no accelerator. Compilers are in the extra `aot` (libtpu, and
jax-cuda12-plugin with jax-cuda12-pjrt). Nothing is run, so no time here is measured: the roofline
is what the chips' peak rates allow. On GPUs `model.attention=auto` is `chunked` here: cuDNN's
kernel can only be compiled where a GPU is.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from jax.sharding import Mesh

from ea_jax import settings as sections
from ea_jax.costs.shapes import Shapes, shapes
from ea_jax.costs.targets import GIB, TARGETS, Target, mesh_for
from ea_jax.flux import sampler
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.transformer import TransformerConfig
from ea_jax.runtime import config_file
from ea_jax.runtime.command_line import parse_flags
from ea_jax.runtime.flops import count_flops
from ea_jax.runtime.memory import peak_host_bytes
from ea_jax.runtime.program import one_line_errors, start_program
from ea_jax.settings import Settings

FLAGS = flags.FLAGS
# Share of the peak rate that well-tuned training of this size reaches in public reports.
USUAL_MFU = 0.45
_log = logging.getLogger(__name__)

# Hub ids whose shapes are known without a download; their VAE is the same.
_KNOWN = {
    "black-forest-labs/FLUX.1-dev": TransformerConfig(),
    "black-forest-labs/FLUX.1-schnell": TransformerConfig(guidance_embeds=False),
}
_LATENT_CHANNELS, _VAE_FACTOR = 16, 8


@dataclasses.dataclass(frozen=True)
class Report:
    """One compiled program.

    Attributes:
      name: of the program.
      arguments, outputs, temporaries: bytes on each device; outputs that take the place of
        donated arguments aren't counted twice.
      flops: of all devices together, counted on the jaxpr.
      traffic: bytes that each device reads and writes at least: its arguments, once.
      missing: bytes a device lacks, as its compiler says; the other numbers are then 0.
    """

    name: str
    arguments: int = 0
    outputs: int = 0
    temporaries: int = 0
    flops: int = 0
    traffic: int = 0
    missing: float = 0.0

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs + self.temporaries

    def seconds(self, target: Target, *, mfu: float = 1.0) -> float:
        """The roofline: the later of arithmetic and memory, both at their peak rates."""
        arithmetic = self.flops / (target.devices * target.chip.flops * mfu)
        return max(arithmetic, self.traffic / target.chip.bandwidth)


def abstract(settings: Settings, mesh: Mesh) -> Shapes:
    """A run's shapes on a mesh; FLUX.1's are known, another model's are read from its folder."""
    side = settings.model.resolution
    known = _KNOWN.get(settings.model.path)
    if known is not None:
        latent = (side // _VAE_FACTOR, side // _VAE_FACTOR, _LATENT_CHANNELS)
        return shapes(settings, known, latent=latent, mesh=mesh)
    pipeline = Pipeline(settings.model.path, revision=settings.model.revision)
    latent = pipeline.latent_shape(side, side)
    return shapes(settings, pipeline.transformer_config, latent=latent, mesh=mesh)


def compile_all(settings: Settings, target: Target) -> list[Report]:
    """Compiles a step's levels and sampling; programs that don't fit say by how much."""
    mesh = mesh_for(target, settings)
    given = abstract(settings, mesh)
    programs: list[tuple[str, Callable, tuple]] = [
        (f"{level.name} step", level.step, (given.state, given.base, given.batches[level.name]))
        for level in given.method.levels
    ]
    programs.append(
        (
            f"{len(given.forward.sigmas) - 1}-step pictures",
            jax.jit(functools.partial(_sample, forward=given.forward)),
            (given.base, given.lora, given.noise_BSC, given.text),
        )
    )
    with jax.set_mesh(mesh):
        return [_compiled(*program) for program in programs]


def _sample(base, lora, noise_BSC, text, *, forward):
    return sampler.sample(
        base,
        forward.model,
        noise_BSC,
        text,
        sigmas=np.array(forward.sigmas),
        grid=forward.grid,
        guidance=forward.guidance,
        lora=lora,
        attention=forward.attention,
    )[0]


def _compiled(name: str, program: Any, arguments: tuple) -> Report:
    flops = count_flops(program, *arguments)
    try:
        memory = program.lower(*arguments).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        lacking = _missing(str(error))
        if lacking is None:
            raise
        return Report(name, flops=flops, missing=lacking)
    return Report(
        name,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        flops=flops,
        traffic=memory.argument_size_in_bytes,
    )


_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def _missing(message: str) -> float | None:
    """Bytes over what a device has, from a TPU compiler's message; None if it says another thing.

    It ends "... HLO temporaries (22.85G) exceeds available HBM (15.75G)."
    """
    size = r"\(([\d.]+)([KMG])\)"
    found = re.search(rf"{size} exceeds available HBM {size}", message)
    if found is None:
        return None
    return float(found[1]) * _UNITS[found[2]] - float(found[3]) * _UNITS[found[4]]


def verdict(reports: list[Report], target: Target) -> str:
    """Whether all of them fit on each device, or by how much they don't."""
    lacking = max(
        report.missing or max(0.0, report.peak - target.chip.memory) for report in reports
    )
    if lacking:
        return f"does not fit: {lacking / GIB:.2f} GiB a device too much"
    most = max(report.peak for report in reports)
    return f"fits: {most / GIB:.2f} of {target.chip.memory / GIB:.2f} GiB a device"


# What is tried, in this order, where a config doesn't fit: each costs more than the one before.
_REMEDIES = (
    ("model.attention", "chunked"),
    ("model.remat", "block"),
    ("mesh.tensor", -1),
    ("model.resolution", 512),
)


def remedy(config: dict[str, Any], target: Target) -> str:
    """The first settings, one added to the other, that make a config fit; compiled, not guessed."""
    tried = []
    for key, value in _REMEDIES:
        section, name = key.split(".")
        # `auto` takes no more memory than `chunked`.
        if config[section][name] in (value, "auto"):
            continue
        changed = {**config, section: {**config[section], name: value}}
        try:
            settings = sections.from_config(changed)
            mesh_for(target, settings)
        except ValueError:
            continue  # the config has settings that it doesn't go with
        config = changed
        tried.append(f"--config.{key}={value}")
        reports = compile_all(settings, target)
        if not verdict(reports, target).startswith("does not"):
            return f"fits with {' '.join(tried)}"
    return "none of attention, remat, mesh.tensor and 512 px makes it fit; take more devices"


def table(reports: list[Report], target: Target) -> str:
    """Markdown: memory of one device by kind, operations, the roofline."""
    lines = [
        "| program | arguments GiB | outputs GiB | temporaries GiB | peak GiB | TFLOP | "
        f"roofline s | at {USUAL_MFU:.0%} of peak s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in reports:
        if r.missing:
            cells = ["", "", "", f"{r.missing / GIB:.2f} too much", f"{r.flops / 1e12:.1f}", "", ""]
        else:
            sizes = [r.arguments, r.outputs, r.temporaries, r.peak]
            cells = [f"{size / GIB:.3f}" for size in sizes]
            cells += [f"{r.flops / 1e12:.1f}", f"{r.seconds(target):.3f}"]
            cells.append(f"{r.seconds(target, mfu=USUAL_MFU):.3f}")
        lines.append(f"| {' | '.join([r.name, *cells])} |")
    return "\n".join(lines) + "\n"


def _run(_: list[str]) -> None:
    start_program()
    with one_line_errors():
        names = list(TARGETS) if FLAGS.sweep else [FLAGS.topology]
        if names[0] not in TARGETS:
            raise ValueError(f"--topology={names[0]} is unknown; use one of {list(TARGETS)}")
        config = FLAGS.config.to_dict()
        settings = sections.from_config(config)
        said = []
        for name in names:
            target = TARGETS[name]
            reports = compile_all(settings, target)
            found = verdict(reports, target)
            if found.startswith("does not") and not FLAGS.sweep:
                found += f"; {remedy(config, target)}"
            used = abstract(settings, mesh_for(target, settings)).forward.attention
            said.append(f"## {name}: {found}\n\nAttention: `{used}`.\n\n{table(reports, target)}")
            _log.info("%s: %s", name, found)
        sys.stdout.write("\n".join(said))
        if FLAGS.out:
            Path(FLAGS.out).write_text("\n".join(said), "utf-8")
        _log.info("peak host memory %.2f GiB", peak_host_bytes() / GIB)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    # This process only compiles: it must not look for the chips themselves.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TPU_LOG_DIR", "disabled")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    jax.config.update("jax_platforms", "cpu")
    config_file.define()
    flags.DEFINE_string("topology", "v5e-8", f"one of {list(TARGETS)}")
    flags.DEFINE_bool("sweep", False, "all of them, as the docs have them")
    flags.DEFINE_string("out", None, "file for the table")
    app.run(_run, ["ea-jax costs aot", *arguments], flags_parser=parse_flags)


if __name__ == "__main__":
    main(sys.argv[1:])
