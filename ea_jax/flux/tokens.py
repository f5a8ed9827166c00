"""Prompts to token ids, as FluxPipeline does, with the character offsets that spans need."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers

MAX_T5_LENGTH = 512
# In transformers 5 these are the fast tokenizers.
_CLASSES = {"tokenizer": transformers.CLIPTokenizer, "tokenizer_2": transformers.T5Tokenizer}
# Without any of these sets of files, or with empty ones, transformers makes up a vocabulary.
_FILES = {
    "tokenizer": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "tokenizer_2": (("tokenizer.json",), ("spiece.model",)),
}
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A tokenized batch of prompts.

    Attributes:
      ids_BT: int32, padded to the maximum length.
      offsets: per prompt and position, start and end in the prompt's characters; (0, 0) for the
        end token and padding. Text that was cut has no position.
      truncated: per prompt, whether its end was cut.
    """

    ids_BT: np.ndarray
    offsets: tuple[tuple[tuple[int, int], ...], ...]
    truncated: tuple[bool, ...]


def load_tokenizer(folder: str | Path, name: str) -> Any:
    """Loads `tokenizer` (CLIP) or `tokenizer_2` (T5) of a pipeline folder, without torch.

    Raises:
      ValueError: the folder has no such tokenizer, or a damaged one; names the file.
    """
    path = Path(folder) / name
    if not path.is_dir():
        raise ValueError(
            f"{path} does not exist; give the folder of a FLUX.1 pipeline in diffusers' layout"
        )
    return read_tokenizer(path, name)


def read_tokenizer(path: Path, name: str) -> Any:
    """Loads a tokenizer from the folder with its files; `name` and errors as `load_tokenizer`."""
    found = [files for files in _FILES[name] if all(map(_is_filled, (path / f for f in files)))]
    if not found:
        wanted = ", or ".join(" and ".join(files) for files in _FILES[name])
        raise ValueError(f"{path} has no {wanted}, or it is empty; download the folder again")
    try:
        tokenizer = _CLASSES[name].from_pretrained(str(path), local_files_only=True)
        ids = tokenizer("a", padding="max_length", max_length=8, truncation=True)["input_ids"]
    except Exception as error:  # the tokenizers library raises nothing more precise
        damaged = [file for file in sorted(path.glob("*.json")) if not _is_object(file)]
        names = " or ".join(str(file) for file in damaged or [path / file for file in found[0]])
        raise ValueError(
            f"{names} can't be read ({' '.join(str(error).split())}); download it again, or the "
            "folder with its tokenizer.json, which needs nothing else"
        ) from error
    if len(ids) != 8 or tokenizer.eos_token_id not in ids:
        raise ValueError(
            f"{path} doesn't end and pad texts as the model needs it ('a' becomes {ids}); "
            "download the folder again"
        )
    return tokenizer


def _is_filled(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _is_object(file: Path) -> bool:
    try:
        return isinstance(json.loads(file.read_bytes()), dict)
    except (ValueError, OSError, RecursionError):
        return False


def tokenize(
    tokenizer: Any, prompts: Sequence[str], max_length: int, *, beside: Tokens | None = None
) -> Tokens:
    """Tokenizes, cuts and pads to `max_length`; a prompt that is cut is logged with what is lost.

    Args:
      tokenizer: from `load_tokenizer`.
      prompts: texts.
      max_length: length T of the result, end token included.
      beside: the same prompts as T5 reads them, for what is logged of CLIP's.
    Raises:
      ValueError: no prompts, or a `max_length` outside 2..512.
    """
    if not prompts:
        raise ValueError("no prompts; give at least one (it may be the empty string)")
    if not 2 <= max_length <= MAX_T5_LENGTH:
        raise ValueError(
            f"max_length={max_length} is out of range; FLUX takes 2 to {MAX_T5_LENGTH} text tokens"
        )
    cut = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=max_length,
        truncation=True,
        return_offsets_mapping=True,
    )
    whole = tokenizer(list(prompts), return_offsets_mapping=True, verbose=False)
    truncated = tuple(len(ids) > max_length for ids in whole["input_ids"])
    encoder = "CLIP" if isinstance(tokenizer, _CLASSES["tokenizer"]) else "T5"
    for row, lost in enumerate(truncated):
        if lost:
            # The last kept position is the end token's.
            start = whole["offset_mapping"][row][max_length - 1][0]
            _log.warning(
                "%s: prompt cut at %d of %d tokens, not read: %r%s",
                encoder,
                max_length,
                len(whole["input_ids"][row]),
                prompts[row][start:],
                "" if beside is None or beside.truncated[row] else " (T5 reads it all)",
            )
    return Tokens(
        ids_BT=np.asarray(cut["input_ids"], np.int32),
        offsets=tuple(tuple(map(tuple, row)) for row in cut["offset_mapping"]),
        truncated=truncated,
    )
