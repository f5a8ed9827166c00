"""Folds an edit into a pipeline's folder, for programs that know nothing of LoRA.

    python -m ea_jax.merge --model black-forest-labs/FLUX.1-dev --lora runs/soccer --out merged

The result is a whole folder in diffusers' layout, in the dtype and the shards of the original. An
edit that is left loose keeps its slider: merge only where that doesn't matter.
"""

from __future__ import annotations

import argparse
import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import convert.diffusers
import convert.peft
from convert import files, layouts, trees
from convert.files import Stored
from ea_jax import edits
from ea_jax.edits import Edit
from ea_jax.flux import hub
from ea_jax.flux.adapters import walk
from ea_jax.flux.transformer import TransformerConfig, abstract_weights

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
      FileExistsError: `out` holds something.
      ValueError: not a FLUX pipeline, an edit that doesn't fit it, a strength that isn't finite;
        nothing is written.
      OSError: the disk is full; nothing is left behind.
    """
    source, out = hub.locate(model, ["model_index.json", "*/*"]), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not an empty folder; delete it, or choose another --out")
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise FileExistsError(f"{out} lies inside {source}; choose an --out outside of it")
    if strength is not None and not math.isfinite(strength):
        raise ValueError(f"strength {strength} is no finite number; 1 is the edit as it was made")
    config = TransformerConfig.from_json(convert.diffusers.read_config(source, "transformer"))
    template = abstract_weights(config)
    edit.check(template)
    changes = _changes(edit, strength)
    shards = convert.diffusers.weight_files(source, "transformer")
    _, shapes = trees.plan(template, layouts.TRANSFORMER)
    trees.check(files.headers(shards), shapes, str(source / "transformer"))

    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    unfinished = work / out.name
    try:
        _copy_others(source, unfinished)
        for path in shards:
            _log.info("merging into %s", path.name)
            stored, metadata = files.header(path)
            files.write(
                unfinished / "transformer" / path.name,
                stored,
                lambda name, stored=stored: _changed(stored[name], changes.get(name)),
                metadata,
            )
        unfinished.replace(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return len(changes)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ea_jax.merge", description="Folds an edit into a FLUX pipeline's folder."
    )
    parser.add_argument("--model", required=True, help="folder, flux-tiny, or hub id")
    parser.add_argument("--lora", required=True, help="run folder or safetensors file")
    parser.add_argument("--out", required=True, help="folder to write; absent or empty")
    parser.add_argument("--strength", type=float, help="default: the recommended one, or 1")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        edit = edits.load(args.lora)
        layers = merge_folder(args.model, edit, args.out, strength=args.strength)
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    _log.info("%d layers changed; %s loads like %s", layers, args.out, args.model)


def _changes(edit: Edit, strength: float | None) -> dict[str, Callable[[], np.ndarray]]:
    """Tensor's name -> its change [out, in], computed when it is needed."""
    adapters, deltas = edit.scaled(strength)
    changes: dict[str, Callable[[], np.ndarray]] = {}
    for path, adapter in walk(adapters):
        A, B = np.asarray(adapter["A"]), np.asarray(adapter["B"])
        for index in _blocks(A):
            at = slice(None) if index is None else index
            changes[_name(path, index)] = lambda A=A[at], B=B[at]: (A @ B).T
    for path, layer in walk(deltas):
        kernel = np.asarray(layer["kernel"])
        for index in _blocks(kernel):
            at, name = slice(None) if index is None else index, _name(path, index)
            other = changes.get(name)
            changes[name] = lambda kernel=kernel[at], other=other: (
                kernel.T if other is None else kernel.T + other()
            )
    return changes


def _blocks(stacked: np.ndarray) -> Sequence[int | None]:
    return range(len(stacked)) if stacked.ndim == 3 else [None]


def _name(path: tuple[str, ...], index: int | None) -> str:
    return convert.peft.layer_name(path, index) + ".weight"


def _changed(place: Stored, change: Callable[[], np.ndarray] | None) -> np.ndarray:
    tensor = files.read(place)
    if change is None:
        return tensor
    return (tensor.astype(np.float32) + change()).astype(tensor.dtype)


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
    main()
