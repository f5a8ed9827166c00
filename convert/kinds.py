"""What a file is that doesn't hold the weights that were asked for, and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_AGAIN = "download or export it again"
_CONVERT = "give the weights as safetensors (save_pretrained writes them)"
# First bytes of a file -> what it is, and the way out.
_STARTS = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the file itself; run 'git lfs pull' in its folder",
    ),
    (b"GGUF", f"is a GGUF file, which is not supported; {_CONVERT}"),
    (b"PK\x03\x04", f"is a zip file, as torch writes them (.bin, .pt); {_CONVERT}"),
    (b"\x80", f"is a pickle, as torch once wrote them (.bin, .ckpt); {_CONVERT}"),
    (b"\x89HDF", f"is an HDF5 file; {_CONVERT}"),
    (b"\x1f\x8b", "is compressed (gzip); unpack it"),
    (
        b"<",
        "is a web page, not weights; download it again, logged in where the page asks for it",
    ),
    (b"{", "is JSON, not weights; give the safetensors file"),
)
_LORA = (".lora_", ".lora.", "lora_unet_", "lora_te", ".lokr_", ".hada_", ".dora_scale")
_FP8 = ("scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant")
_BITSANDBYTES = (".absmax", ".quant_state.bitsandbytes", ".quant_map")


def of_start(path: Path) -> str:
    """What a file that is no safetensors file is, judged by its first bytes.

    Raises:
      OSError: it can't be read.
    """
    with path.open("rb") as file:
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        return f"is empty; {_AGAIN}"
    for first, told in _STARTS:
        if start.startswith(first):
            return told
    return f"is not a safetensors file; {_AGAIN}"


def of_tensors(names: Iterable[str], codes: Iterable[str]) -> str | None:
    """What a safetensors file is that is no model in half or single precision; None if unknown.

    Args:
      names: of its tensors.
      codes: their dtypes, as the file names them.
    """
    names = list(names)

    def has(marks: tuple[str, ...]) -> bool:
        return any(mark in f".{name}" for name in names for mark in marks)

    if has(_LORA):
        return "is a LoRA, not a model; give it as the LoRA (--lora)"
    if has(_FP8) or any(code.startswith("F8") for code in codes):
        return "is in fp8, which is not supported; give bfloat16, float16 or float32 weights"
    if has(_BITSANDBYTES):
        return (
            "is quantized by bitsandbytes, which is not supported; give bfloat16, float16 or "
            "float32 weights"
        )
    return None
