"""Folds an edit into a pipeline's folder, for programs that know nothing of LoRA.

    ea-jax merge --model black-forest-labs/FLUX.1-dev --lora runs/soccer --out merged

The result is a whole folder in diffusers' layout, in the dtype and the shards of the original. An
edit that is left loose keeps its slider: merge only where that doesn't matter.
"""

from __future__ import annotations

import functools
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import convert.bfl
import convert.diffusers
import convert.peft
from convert import files, layouts, trees
from convert.disk import require_writable
from convert.files import Stored
from ea_jax import edits, merged
from ea_jax.arguments import Parser, number, text
from ea_jax.edits import Edit
from ea_jax.flux import hub
from ea_jax.flux.adapters import AdapterError, walk
from ea_jax.flux.transformer import TransformerConfig, abstract_weights
from ea_jax.runtime import lock
from ea_jax.runtime.fingerprint import Sums, base_hash, leaf_sums
from ea_jax.runtime.metrics import NonFiniteError
from ea_jax.runtime.program import one_line_errors, start_program

_log = logging.getLogger(__name__)


def merge_folder(
    model: str | Path, edit: Edit, out: str | Path, *, strength: float | None = None
) -> int:
    """Writes a copy of a pipeline with an edit in its transformer, tensor by tensor.

    Args:
      model: folder in diffusers' layout, `flux-tiny`, or a hub id.
      edit: the change.
      out: folder to write: absent or empty. It shows once it is complete.
      strength: None takes the edit's recommended one, or 1.
    Returns:
      Number of layers that were changed.
    Raises:
      FileExistsError: `out` holds something, or is where a disk is mounted.
      ValueError: not a FLUX pipeline; an edit that doesn't fit it, that its weights hold already,
        or that would change nothing; a strength that isn't finite. Nothing is written.
      NonFiniteError: a kernel would hold NaN or Inf; nothing is written.
      OSError: the disk is full; nothing is left behind.
    """
    source, out = hub.locate(model, ["model_index.json", "*/*"]), Path(out).resolve()
    if out.is_mount():
        raise FileExistsError(f"{out} is a whole disk, whose place no folder takes; give one in it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not an empty folder; delete it, or choose another --out")
    if source.resolve() in (out, *out.parents):
        raise FileExistsError(f"{out} lies inside {source}; choose an --out outside of it")
    if single := convert.bfl.beside(source):
        raise ValueError(
            f"{source} holds its transformer in one file, {single.name}, and merge reads "
            "diffusers' layout; give a folder with weights in transformer"
        )
    config = TransformerConfig.from_json(convert.diffusers.read_config(source, "transformer"))
    template = abstract_weights(config)
    layers = edit.check(template)
    if not edit.used_strength(strength):
        raise AdapterError("nothing would change at strength 0; 1 is the edit as it was made")
    require_writable(out.parent / "merged")
    merged.require_unmerged(edit, source)
    merged.warn_of_another_base(edit, source, lambda: _base_hash(source, template))
    changes = _changes(edit, strength)
    shards = convert.diffusers.weight_files(source, "transformer")
    _, shapes = trees.plan(template, layouts.TRANSFORMER)
    trees.check(files.headers(shards), shapes, str(source / "transformer"))

    out.parent.mkdir(parents=True, exist_ok=True)
    # Of a fixed name: a merge that is killed leaves it to the next one to remove.
    work = out.parent / f".{out.name}.unfinished"
    unfinished = work / out.name
    changed: set[str] = set()

    def edited(name: str, place: Stored) -> np.ndarray:
        before = files.read_finite(name, place)
        if name not in changes:
            return before
        after = _added(before, changes[name](), name)
        if not np.array_equal(before, after):
            changed.add(name)
        return after

    with lock.held(work):
        if unfinished.exists():
            _log.info("removing %s, left by a merge that was cut off", unfinished)
            shutil.rmtree(unfinished)
        try:
            _copy_others(source, unfinished)
            for path in shards:
                _log.info("merging into %s", path.name)
                stored, metadata = files.header(path)
                files.write(
                    unfinished / "transformer" / path.name,
                    stored,
                    lambda name, stored=stored: edited(name, stored[name]),
                    metadata,
                )
            used = edit.used_strength(strength)
            if not changed:
                raise AdapterError(
                    f"nothing would change: at strength {used:g} the edit's changes of "
                    f"{_layers(layers)} are all lost in rounding to the model's precision; raise "
                    "the strength"
                )
            merged.save(unfinished, edit, used, before=merged.listed(source))
            unfinished.replace(out)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)
    if len(changed) < layers:
        _log.warning(
            "%d of the edit's %s stay as they were: the change is lost in rounding",
            layers - len(changed),
            _layers(layers),
        )
    return len(changed)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("merge", "Folds an edit into a FLUX pipeline's folder.")
    parser.add("--model", rule=text, required=True, help="folder, flux-tiny, or hub id")
    parser.add("--lora", rule=text, required=True, help="run folder or safetensors file")
    parser.add("--out", rule=text, required=True, help="folder to write; absent or empty")
    parser.add("--strength", rule=number(), help="default: the recommended one, or 1")
    given = parser.parse_args(arguments)
    start_program()
    with one_line_errors():
        edit = edits.load(given.lora)
        layers = merge_folder(given.model, edit, given.out, strength=given.strength)
        _log.info("%s changed; %s loads like %s", _layers(layers), given.out, given.model)


def _layers(count: int) -> str:
    return f"{count} layer" if count == 1 else f"{count} layers"


def _changes(edit: Edit, strength: float | None) -> dict[str, Callable[[], np.ndarray]]:
    """Tensor's name -> its change [out, in], computed when it is needed."""
    # A change that overflows is told once its kernel is known.
    with np.errstate(over="ignore"):
        adapters, deltas = edit.scaled(strength)
    changes: dict[str, Callable[[], np.ndarray]] = {}
    for path, adapter in walk(adapters):
        A, B = np.asarray(adapter["A"]), np.asarray(adapter["B"])
        for index in _blocks(A):
            at = slice(None) if index is None else index
            changes[_name(path, index)] = functools.partial(_product, A[at], B[at])
    for path, layer in walk(deltas):
        kernel = np.asarray(layer["kernel"])
        for index in _blocks(kernel):
            at, name = slice(None) if index is None else index, _name(path, index)
            other = changes.get(name)
            changes[name] = lambda kernel=kernel[at], other=other: (
                kernel.T if other is None else kernel.T + other()
            )
    return changes


def _product(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return (A @ B).T


def _blocks(stacked: np.ndarray) -> Sequence[int | None]:
    return range(len(stacked)) if stacked.ndim == 3 else [None]


def _name(path: tuple[str, ...], index: int | None) -> str:
    return convert.peft.layer_name(path, index) + ".weight"


def _added(tensor: np.ndarray, change: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        after = (tensor.astype(np.float32) + change).astype(tensor.dtype)
    if not files.is_finite(after):
        raise NonFiniteError(f"{name} would hold NaN or Inf in {tensor.dtype}; lower the strength")
    return after


def _base_hash(source: Path, template: Any) -> str:
    """Hash of a folder's transformer, of which one leaf at a time is in memory."""
    rounded = np.dtype(jnp.bfloat16)
    sums = convert.diffusers.load(
        template,
        source,
        "transformer",
        dtype=rounded,
        put=lambda _, array: Sums(array.shape, leaf_sums(array)),
    )
    return base_hash(sums)


def _copy_others(source: Path, out: Path) -> None:
    """Everything of the pipeline but weights of the transformer, whichever file holds them.

    Beside its own there may be a variant or a single file, without the edit.
    """
    part = "transformer"
    weights = [
        *convert.diffusers.weight_files(source, part),
        *convert.diffusers.stray_files(source, part),
    ]
    names = [path.name for path in weights]
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            ignored = shutil.ignore_patterns(*names) if path.name == part else None
            shutil.copytree(path, out / path.name, ignore=ignored)
        elif path.is_file() and not convert.diffusers.is_weights(path):
            shutil.copy2(path, out / path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
