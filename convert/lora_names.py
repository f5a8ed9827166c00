"""Names of tensors in LoRA files: the spellings of diffusers, PEFT, kohya, ComfyUI and XLabs.

A name is prefix, layer, end: `transformer.` `transformer_blocks.3.attn.to_q` `.lora_A.weight`. The
layers are diffusers' or those of Black Forest Labs' layout, where one matrix holds Q, K and V;
XLabs names the latter by its attention processors. kohya writes a layer with `_` for every dot.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from convert import layouts
from convert.files import WeightsError

Module = tuple[str, ...]

PEFT = "base_model.model."
_PREFIX = re.compile(r"(base_model\.model\.|model\.|diffusion_model\.|transformer\.)*")
_FLAT_PREFIX = re.compile(r"(lora_unet_|lora_transformer_|lycoris_)")
_TEXT_ENCODER = re.compile(
    r"(base_model\.model\.)?(text_encoders?(_\d)?\.|lora_te\d?_|clip_l\.|t5xxl\.)"
)
# At most three digits: no FLUX has a thousand blocks, and one is stacked for each.
_BLOCK = re.compile(
    r"((?:single_)?transformer_blocks|double_blocks|single_blocks)([._])([0-9]{1,3})\2(.+)"
)
_ENDS = {
    "A": r"lora_A(\.[^.]+)?\.weight|(lora[._]|lora_linear_layer\.)?down\.weight",
    "B": r"lora_B(\.[^.]+)?\.weight|(lora[._]|lora_linear_layer\.)?up\.weight",
    "alpha": r"alpha",
    "diff": r"diff",
}
_END = re.compile(r"(.+?)\.(?:" + "|".join(f"(?P<{k}>{e})" for k, e in _ENDS.items()) + ")")

# XLabs' name -> Black Forest Labs'. 1 is the image's stream, 2 the text's.
_XLABS = {
    "double_blocks.{}.processor.qkv_lora1": "double_blocks.{}.img_attn.qkv",
    "double_blocks.{}.processor.qkv_lora2": "double_blocks.{}.txt_attn.qkv",
    "double_blocks.{}.processor.proj_lora1": "double_blocks.{}.img_attn.proj",
    "double_blocks.{}.processor.proj_lora2": "double_blocks.{}.txt_attn.proj",
    "single_blocks.{}.processor.proj_lora": "single_blocks.{}.linear2",
}
_XLABS_SINGLE_QKV = "single_blocks.{}.processor.qkv_lora"

_NORMS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")

EXTRACT = (
    "fuse it into the model with the program that made it, and extract a plain LoRA from the "
    "difference"
)
FUSE = (
    "export it without them, or fuse it into the model's folder with the program that made it and "
    "give that folder as the model"
)
# What isn't a plain LoRA: end of a tensor's name -> what it is, the way out.
_OTHERS = {
    r"weight|set_weight": ("whole weights of a model", "give a model as the model, not as a LoRA"),
    r"(lora_magnitude_vector|dora_scale)(\.\w+)*": ("the magnitudes of a DoRA", EXTRACT),
    r"lokr_\w+": ("the factors of a LoKr", EXTRACT),
    r"hada_\w+": ("the factors of a LoHa", EXTRACT),
    r"b?oft_\w+(\.\w+)*": ("the rotations of an OFT", EXTRACT),
    r"(ia3_l|on_input)(\.\w+)*": ("the factors of an IA3", EXTRACT),
    r"vera_lambda_\w+(\.\w+)*": ("the factors of a VeRA", EXTRACT),
    r"lora_mid\.weight": ("the Tucker factors of a LoCon", EXTRACT),
    r"[ab][12]\.weight": ("the factors of a GLoRA", EXTRACT),
    r"(\w+\.)*bias|diff_b": ("biases", FUSE),
}
# ComfyUI's marker of a checkpoint in scaled fp8, beside the scales of its layers.
_MARKER = "scaled_fp8"
_SCALES = ("scales of fp8 numbers", "export it in bfloat16, without scaling")
_OTHERS[r"scale_(weight|input)|(weight|input)_scale"] = _SCALES
_NORM = ("changes of norm layers", FUSE)


@dataclasses.dataclass(frozen=True)
class Target:
    """What one matrix of a file changes.

    Attributes:
      modules: layers of our tree whose outputs it holds, in this order.
      swapped: its two halves of outputs are in the other order.
    """

    modules: tuple[Module, ...]
    swapped: bool = False


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a file, of one block.

    Attributes:
      name: as the file spells it, without its prefix.
      target: what it changes.
      index: of the block; None outside of blocks.
    """

    name: str
    target: Target
    index: int | None

    @property
    def is_diffusers(self) -> bool:
        """Whether the name is diffusers' own."""
        first = ".".join(self.target.modules[0])
        return self.name == layouts.TRANSFORMER.module(first).format(self.index)


def is_text_encoder(key: str) -> bool:
    """Whether a tensor, or a field of the settings, belongs to a text encoder."""
    return _TEXT_ENCODER.match(key) is not None


def parse(key: str) -> tuple[Layer, str] | None:
    """The layer of a tensor, and its kind: `A`, `B`, `alpha` or `diff`; None for any other."""
    name, flat = _without_prefix(key)
    match = _END.fullmatch(name)
    layer = match and _layer(match[1], flat)
    if not match or not layer:
        return None
    return layer, next(kind for kind in _ENDS if match[kind] is not None)


def adapter(key: str) -> str | None:
    """PEFT's name of an adapter in a tensor's name, `default` in `lora_A.default.weight`."""
    found = re.search(r"\.lora_[AB]\.([^.]+)\.weight$", key)
    return found and found[1]


def refused(keys: Iterable[str], total: int, path: Path) -> WeightsError:
    """The error for tensors that `parse` does not know: says what they are.

    Args:
      keys: their names, at least one.
      total: number of tensors in the file.
      path: the file.
    """
    kinds = {key: _kind(key) for key in sorted(keys)}
    strange = [key for key, kind in kinds.items() if kind is None]
    if strange:
        return WeightsError(
            f"{len(strange)} of {total} tensors in {path} belong to no layer of a FLUX "
            f"transformer ({', '.join(strange[:4])}); give a LoRA for FLUX.1's transformer"
        )
    known = [kind for kind in kinds.values() if kind is not None]
    counts = Counter(known)
    kind = next(kind for kind in (*_OTHERS.values(), _NORM) if kind in counts)
    what, way_out = kind
    first = next(key for key, found in kinds.items() if found == kind)
    return WeightsError(
        f"{counts[kind]} of {total} tensors in {path} are {what}, the first {first!r}, and only a "
        f"plain LoRA can be read; {way_out}"
    )


def _without_prefix(key: str) -> tuple[str, bool]:
    """A tensor's name without what stands before its layer; whether `_` is there for dots."""
    name = _PREFIX.sub("", key, count=1)
    flat = _FLAT_PREFIX.match(name)
    return (name[flat.end() :], True) if flat else (name, False)


def _layer(name: str, flat: bool) -> Layer | None:
    pattern, index = _numbered(name, flat)
    target = _targets(flat).get(pattern)
    return target and Layer(name, target, index)


def _numbered(name: str, flat: bool) -> tuple[str, int | None]:
    """A layer's name with `{}` for the block's index, and the index."""
    match = _BLOCK.fullmatch(name)
    if not match or (match[2] == "_") != flat:
        return name, None
    return match[2].join((match[1], "{}", match[4])), int(match[3])


def _kind(key: str) -> tuple[str, str] | None:
    """What a tensor of a known layer is that `parse` can't read, and the way out."""
    name, flat = _without_prefix(key)
    if name == _MARKER:
        return _SCALES
    pattern, _ = _numbered(name, flat)
    if any(pattern.startswith((f"{norm}.", f"{norm}_")) for norm in _norms(flat)):
        return _NORM
    # A layer's name may end like a tensor's (`linear1`, `proj`): the first dot that fits.
    parts = name.split(".")
    for stop in range(1, len(parts)):
        if _layer(".".join(parts[:stop]), flat):
            end = ".".join(parts[stop:])
            return next((kind for ends, kind in _OTHERS.items() if re.fullmatch(ends, end)), None)
    return None


@functools.cache
def _targets(flat: bool) -> dict[str, Target]:
    """Every layer with a kernel, `{}` for the block's index -> what it changes."""
    layout, found = layouts.BLACK_FOREST_LABS, {}
    for module, name in layout.modules.items():
        path = tuple(module.split("."))
        if path[-1] in _NORMS:
            continue
        found[layouts.TRANSFORMER.module(module)] = Target((path,))
        members = layout.fused.get(name, (module,))
        paths = tuple(tuple(member.split(".")) for member in members)
        found[name] = Target(paths, name in layout.swapped)
    found |= {name: found[other] for name, other in _XLABS.items()}
    found[_XLABS_SINGLE_QKV] = Target(found["single_blocks.{}.linear1"].modules[:3])
    return {name.replace(".", "_"): target for name, target in found.items()} if flat else found


@functools.cache
def _norms(flat: bool) -> list[str]:
    found = []
    for module, name in layouts.BLACK_FOREST_LABS.modules.items():
        if module.rpartition(".")[2] in _NORMS:
            found += [layouts.TRANSFORMER.module(module), name]
    return [name.replace(".", "_") for name in found] if flat else found
