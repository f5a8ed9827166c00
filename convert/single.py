"""Folders of one model, as transformers saves it: config.json beside model.safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convert import disk, trees
from convert.diffusers import stored_in
from convert.files import Stored, WeightsError
from convert.layouts import Layout

FILES = ["*.json", "*.txt", "model*.safetensors"]
"""What such a folder on the hub is read of, as globs."""


def read_config(folder: Path, model_type: str, *, way_out: str) -> dict[str, Any]:
    """Reads `<folder>/config.json`.

    Args:
      folder: of the model.
      model_type: that the file must state, such as `clip`.
      way_out: how the user gets the right folder, for messages.
    Raises:
      WeightsError: no such file, not a JSON object, or the config of another model.
    """
    path = folder / "config.json"
    config = disk.read_json(path, way_out=way_out, error=WeightsError)
    if config.get("model_type") != model_type:
        raise WeightsError(
            f"{path} describes a model of type {config.get('model_type')!r}, not {model_type!r}; "
            f"{way_out}"
        )
    return config


def stored(folder: Path) -> dict[str, Stored]:
    """The tensors of a folder by their names, from the headers; WeightsError as `stored_in`."""
    return stored_in(folder, "model")


def load(template: Any, tensors: dict[str, Stored], layout: Layout, folder: Path) -> Any:
    """The template's tree with the arrays of a folder, on the default device.

    Args:
      template: nested dict of ShapeDtypeStructs.
      tensors: of `stored`, less what isn't in the template.
      layout: how they are named.
      folder: for messages.
    Raises:
      WeightsError: as `trees.load`.
    """
    return trees.load(template, tensors, layout, where=str(folder))
