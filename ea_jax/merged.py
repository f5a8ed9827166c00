"""Which edits a pipeline's weights hold already, and on which weights an edit was made."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convert.disk import FileError, draft, entry, read_json
from ea_jax.edits import Edit
from ea_jax.flux.adapters import AdapterError

# In a pipeline's folder: the edits that its weights hold.
MERGED_FILE = "merged_edits.json"

_log = logging.getLogger(__name__)


def require_unmerged(edit: Edit, folder: str | Path) -> None:
    """Raises AdapterError where a model's weights hold the edit already: it would count twice."""
    digest = edit.digest()
    if any(record.get("digest") == digest for record in listed(folder)):
        raise AdapterError(
            f"{folder} holds {_named(edit)} already, merged into its weights; use "
            "the folder without the edit, or the edit on the model that it was made on"
        )


def warn_of_another_base(edit: Edit, folder: str | Path, base: Callable[[], str]) -> None:
    """Logs a warning where an edit is used on another model than the one that it was made on.

    It is no error: an edit may well work on a model's relatives.

    Args:
      edit: to be used.
      folder: of the pipeline.
      base: gives the `base_hash` of its transformer; not called where the edit names none.
    """
    if edit.base is None or edit.base == (found := base()):
        return
    names = ", ".join(repr(record.get("concept")) for record in listed(folder))
    besides = f" (with {names} merged into it)" if names else ""
    _log.warning(
        "%s was made on weights with hash %s, and those of %s%s have %s: see whether "
        "it still does what it should",
        _named(edit),
        edit.base,
        folder,
        besides,
        found,
    )


def _named(edit: Edit) -> str:
    return "this edit" if edit.concept is None else f"the edit of {edit.concept!r}"


def listed(folder: str | Path) -> list[dict[str, Any]]:
    """What was merged into a pipeline's weights, an entry for each edit; empty for most.

    Raises:
      FileError: `MERGED_FILE` is damaged.
    """
    path = Path(folder) / MERGED_FILE
    if not path.exists():
        return []
    way_out = "delete it if the folder's weights are as they were published"
    record = read_json(path, way_out=way_out)
    found = entry(record, "edits", list, where=path, way_out=way_out)
    if not all(isinstance(item, dict) and isinstance(item.get("digest"), str) for item in found):
        raise FileError(f"{path} lists an edit without a digest; {way_out}")
    return found


def save(folder: str | Path, edit: Edit, strength: float, *, before: list[dict[str, Any]]) -> None:
    """Writes the list that `listed` reads: what was there before, and this edit."""
    record = {
        "digest": edit.digest(),
        "concept": edit.concept,
        "preset": edit.preset,
        "base": edit.base,
        "strength": strength,
    }
    with draft(Path(folder) / MERGED_FILE) as unfinished:
        text = json.dumps({"edits": [*before, record]}, indent=2)
        unfinished.write_text(f"{text}\n", encoding="utf-8")
