"""What is examined: a model, and edits of it that are painted side by side with it.

subjects = subjects_of(["none", "runs/nude-tiny", "half=runs/nude-tiny@0.5"])
painter = open_painter(given, prompts, subjects)
for subject in subjects:
    painter.paint(prompts, seeds, edit=subject.edit, strength=subject.strength)
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from ea_jax import edits, merged
from ea_jax.arguments import Parser, number, text
from ea_jax.concepts.encoding import Encoded, encoder_of
from ea_jax.edits import Edit
from ea_jax.evaluate import readings, worlds
from ea_jax.evaluate.probes import Detector, Probe, Reading
from ea_jax.flux import axes, hub
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.sharded import attention_on, on_mesh, unrolled_on
from ea_jax.flux.tokens import MAX_T5_LENGTH
from ea_jax.painter import Painter, Sampling
from ea_jax.runtime import compiler
from ea_jax.runtime.fingerprint import base_hash
from ea_jax.runtime.mesh import make_mesh

BASE, ZEROED = "base", "zeroed"
CACHE = ".cache/banks"
_STEPS, _SIDE = 1000, 2**14


@dataclasses.dataclass(frozen=True)
class Subject:
    """What paints: the frozen model, or an edit of it.

    Attributes:
      name: in tables; `base` is the frozen model.
      edit: None is the frozen model.
      strength: of the edit; None is its recommended one.
      source: file or folder it came from, for the record.
    """

    name: str
    edit: Edit | None = None
    strength: float | None = None
    source: str | None = None


def add_arguments(parser: Parser, *, edits: bool = True) -> None:
    """Adds to a command what each task takes: model, edits, how pictures are sampled, folders."""
    parser.add("--model", rule=text, default=hub.EMBEDDED, help="flux-tiny, a folder, or a hub id")
    if edits:
        parser.add(
            "--edit",
            rule=text,
            often=True,
            default=[],
            help="a run's folder, a file, or zeroed:WORD (its attention columns, zeroed); "
            "[NAME=]PATH[@STRENGTH]; may be given several times",
        )
    parser.add("--out", rule=text, required=True, help="folder for the results")
    parser.add("--steps", rule=number(int, low=1, high=_STEPS), help="Euler steps; 28 for dev")
    parser.add("--guidance", rule=number(low=0), help="distilled guidance; 3.5 for dev")
    parser.add("--size", rule=number(int, low=1, high=_SIDE), help="side in pixels")
    parser.add(
        "--text_length", rule=number(int, low=2, high=MAX_T5_LENGTH), help="T5 tokens, padded"
    )
    parser.add(
        "--batch", rule=number(int, low=1), help="pictures painted at once, over all devices"
    )
    parser.add(
        "--tensor",
        rule=number(int, low=1),
        default=1,
        help="devices that share one copy of the transformer; the others hold copies",
    )
    parser.add("--dtype", rule=text, choices=("float32", "bfloat16"), help="of the weights")
    parser.add("--cache", rule=text, default=CACHE, help="folder for what can be used again")


def subjects_of(given: Sequence[str]) -> list[Subject]:
    """The base and each edit that is given as [NAME=]PATH[@STRENGTH]; `none` is the base itself.

    In the place of a path, `zeroed:WORD` is the word's columns zeroed; see `edit_of`.

    Raises:
      ValueError: a strength that is no number, two subjects of one name, or no edit there.
    """
    found = [Subject(BASE)]
    for text_ in given:
        if text_ == "none":
            continue
        name, source, strength = _split(text_)
        edit = edit_of(source)
        edit.used_strength(strength)
        found.append(Subject(name, edit, strength, source))
    names = [subject.name for subject in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two edits are named {twice!r}; write --edit NAME=PATH for one of them")
    return found


def edit_of(source: str) -> Edit:
    """An edit by its folder or file, or `zeroed:WORD`: the word's columns zeroed while painting."""
    kind, colon, word = source.partition(":")
    if colon and kind == ZEROED and word.strip() and not Path(source).exists():
        return edits.zeroed([word.strip()])
    return edits.load(source)


def open_painter(
    given: argparse.Namespace,
    prompts: Sequence[str],
    subjects: Sequence[Subject],
    *,
    columns: int = 0,
) -> Painter:
    """A painter of a command's model, for its prompts, with all edits checked against it.

    Batches are split over this machine's devices, as far as they divide; `--tensor` of them share
    one copy of the transformer.

    Args:
      given: the arguments of `add_arguments`.
      prompts: all that will be painted; the text encoders are dropped behind them.
      subjects: what will paint.
      columns: of attention that are asked for, at most.
    Raises:
      ValueError: no such model, an edit that doesn't fit it or was made on another, sampling
        that it can't do, or several hosts.
    """
    how = _how(given)
    compiler.keep_programs(given.cache)
    mesh = _mesh_for(how["batch"], given.tensor)
    pipeline = on_mesh(mesh, given.model, dtype=how["dtype"])
    template = pipeline.template("transformer")
    for subject in subjects:
        if subject.edit is not None:
            subject.edit.check(template)
            merged.require_unmerged(subject.edit, pipeline.folder)
    guidance = given.guidance
    _check_sampling(pipeline, given)
    if guidance is None and pipeline.transformer_config.guidance_embeds:
        guidance = 3.5
    attention = attention_on(
        *(mesh, pipeline),
        side=how["size"],
        text_length=how["text_length"],
        columns=columns,
    )
    pipeline.check_files()
    options = encoder_of(
        pipeline, text_length=how["text_length"], dtype=how["dtype"], cache=given.cache
    )
    texts = Encoded.make(prompts, **options)
    pipeline.drop("text_encoder", "text_encoder_2")
    weights: Any = pipeline.load_part("transformer")
    made_of = pipeline.fingerprint("transformer")
    _require_base(subjects, made_of, weights, given.model)
    if how["tiny"]:
        pipeline.weights["transformer"] = unrolled_on(mesh, weights)
    return Painter(
        pipeline,
        mesh=mesh,
        sampling=Sampling(given.steps, guidance, how["size"], how["batch"], attention),
        texts=texts,
        fingerprint=made_of,
    )


def read(
    painter: Painter,
    probes: Sequence[Probe],
    detector: Detector,
    subjects: Sequence[Subject],
    *,
    cache: str | Path,
) -> dict[str, list[Reading]]:
    """What a detector sees in each probe's picture by each subject; see `readings.read`."""
    return {
        one.name: readings.read(
            *(painter, probes, detector),
            name=one.name,
            edit=one.edit,
            strength=one.strength,
            cache=cache,
        )
        for one in subjects
    }


def require_sampling(given: argparse.Namespace) -> None:
    """Raises ValueError for sampling that a command's model can't do; reads its configs alone."""
    pipeline = Pipeline(given.model)
    _check_sampling(pipeline, given)
    mesh = _mesh_for(_how(given)["batch"], given.tensor)
    axes.shardings(mesh, pipeline.template("transformer"))


def _how(given: argparse.Namespace) -> dict[str, Any]:
    """Size, text length, batch and dtype: what is given, or usual for the model.

    Usual for flux-tiny, or a folder of it with an edit merged, which has a judge, too (`tiny`), and
    for a FLUX.
    """
    tiny = worlds.has_detector(given.model)
    usual = {
        "size": 64 if tiny else 512,
        "text_length": 32 if tiny else 256,
        "batch": 8 if tiny else _copies(given.tensor),
        "dtype": "float32" if tiny else "bfloat16",
    }
    how = {name: getattr(given, name) or value for name, value in usual.items()}
    return {**how, "tiny": tiny}


def _check_sampling(pipeline: Pipeline, given: argparse.Namespace) -> None:
    if given.guidance is not None:
        pipeline.check_guidance(given.guidance)
    if given.size is not None:
        pipeline.latent_shape(given.size, given.size)


def _mesh_for(batch: int, tensor: int) -> Mesh:
    """Copies of the model, each on `tensor` devices: as many as divide a batch."""
    if jax.process_count() > 1:
        raise ValueError(
            f"this command paints on the devices of one machine, and {jax.process_count()} hosts "
            "run it; start it on one of them"
        )
    count = max(n for n in range(1, _copies(tensor) + 1) if batch % n == 0)
    return make_mesh({"data": count, "tensor": tensor})


def _copies(tensor: int) -> int:
    """Of the model, each on `tensor` of this machine's devices."""
    return max(1, jax.local_device_count() // tensor)


def _require_base(subjects: Sequence[Subject], made_of: str, weights: Any, model: str) -> None:
    """Raises ValueError where an edit was made on other weights: numbers of it mean nothing."""
    bases = {subject.name: subject.edit.base for subject in subjects if subject.edit is not None}
    # An earlier version named the weights as they were loaded.
    strange = {name: base for name, base in bases.items() if base not in (None, made_of)}
    here = base_hash(weights) if strange else made_of
    for name, base in strange.items():
        if base != here:
            raise ValueError(
                f"edit {name!r} was made on weights with hash {base}, and those of {model} have "
                f"{here}; give the --model that it was made on"
            )


def _split(given: str) -> tuple[str, str, float | None]:
    """Name, source and strength; a path may hold `=` and `@` itself."""
    name, equals, source = given.partition("=")
    if not equals or Path(given).exists():
        name, source = "", given
    strength = None
    if not Path(source).exists() and "@" in source:
        source, _, stated = source.rpartition("@")
        try:
            strength = float(stated)
        except ValueError:
            raise ValueError(f"--edit={given}: {stated!r} is no strength; write PATH@0.5") from None
    return name or Path(source).stem or source, source, strength
