"""Black Forest Labs' single file of the FLUX transformer, e.g. `flux1-dev.safetensors`.

Tensor names with the prefix that ComfyUI's checkpoints put before them are read as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convert import disk, files, kinds, layouts, trees
from convert.files import Stored, WeightsError

PREFIXES = ("model.diffusion_model.", "diffusion_model.")
# What names in diffusers' layout start with.
_DIFFUSERS = ("transformer_blocks.", "single_transformer_blocks.")
# FLUX.1's axes of the rotary embedding; the file doesn't hold them.
_ROPE_AXES = {128: [16, 56, 56]}


def load(
    template: Any,
    file: str | Path,
    *,
    dtype: Any = None,
    put: trees.Put | None = None,
    wanted: trees.Wanted | None = None,
) -> Any:
    """Loads the transformer from a single file; arguments and errors as `diffusers.load`."""
    return trees.load(
        template,
        _stored(Path(file)),
        layouts.BLACK_FOREST_LABS,
        where=str(file),
        dtype=dtype,
        put=put,
        wanted=wanted,
    )


def check(template: Any, file: str | Path) -> None:
    """What `load` checks, from the header alone."""
    _, shapes = trees.plan(template, layouts.BLACK_FOREST_LABS)
    trees.check(_stored(Path(file)), shapes, str(file))


def beside(folder: Path) -> Path | None:
    """The single file in a pipeline's folder that has no weights in `transformer`, if there is one.

    Raises:
      WeightsError: there are several, or a file that can't be read.
    """
    if disk.shown((folder / "transformer").glob("*.safetensors*")):
        return None
    names = {prefix + "img_in.weight" for prefix in ("", *PREFIXES)}
    found = [
        path
        for path in disk.shown(folder.glob("*.safetensors"))
        if names & {*files.header(path)[0]}
    ]
    if len(found) > 1:
        raise WeightsError(
            f"{folder} has no weights in transformer, and several single files of one: "
            f"{', '.join(path.name for path in found)}; leave one of them there"
        )
    return found[0] if found else None


def read_config(file: str | Path) -> dict[str, Any]:
    """Derives diffusers' config.json from the shapes in a single file.

    Raises:
      WeightsError: not a FLUX transformer, or a head width for which FLUX.1 defines no axes.
    """
    stored = _stored(Path(file))

    def shape(name: str, axes: int = 2) -> tuple[int, ...]:
        if name not in stored:
            raise WeightsError(
                f"missing tensor {name!r} in {file}; it is not a FLUX transformer in Black Forest "
                "Labs' layout"
            )
        if len(stored[name].shape) != axes:
            raise WeightsError(
                f"tensor {name!r} has shape {list(stored[name].shape)} in {file}; a FLUX "
                f"transformer's has {axes} axes"
            )
        return stored[name].shape

    def blocks(kind: str) -> int:
        return len({name.split(".")[1] for name in stored if name.startswith(kind + ".")})

    width, in_channels = shape("img_in.weight")
    head_width = shape("double_blocks.0.img_attn.norm.query_norm.scale", 1)[0]
    if head_width not in _ROPE_AXES:
        raise WeightsError(
            f"{file} has heads of width {head_width}, FLUX.1 of {sorted(_ROPE_AXES)}; give the "
            "config yourself, with axes_dims_rope"
        )
    return {
        "_class_name": "FluxTransformer2DModel",
        "in_channels": in_channels,
        "out_channels": shape("final_layer.linear.weight")[0],
        "num_layers": blocks("double_blocks"),
        "num_single_layers": blocks("single_blocks"),
        "attention_head_dim": head_width,
        "num_attention_heads": width // head_width,
        "joint_attention_dim": shape("txt_in.weight")[1],
        "pooled_projection_dim": shape("vector_in.in_layer.weight")[1],
        "guidance_embeds": "guidance_in.in_layer.weight" in stored,
        "axes_dims_rope": _ROPE_AXES[head_width],
    }


def _stored(file: Path) -> dict[str, Stored]:
    stored = files.header(file)[0]
    other = kinds.of_tensors(stored, {place.code for place in stored.values()})
    if other is not None:
        raise WeightsError(f"{file} {other}")
    if any(name.startswith(_DIFFUSERS) for name in stored):
        raise WeightsError(
            f"{file} is in diffusers' layout; give the pipeline folder that it belongs to as the "
            "model, without a single file"
        )
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in stored):
            return {
                name.removeprefix(prefix): place
                for name, place in stored.items()
                # Beside the transformer such a checkpoint may hold the VAE and text encoders.
                if name.startswith(prefix)
            }
    return stored
