"""Where an edit comes from: what made it, and how its file says so."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from convert.disk import entry, parse_json
from convert.files import WeightsError

# Keys of the file's metadata.
FACTS = {"base": "base_hash", "concept": "concept", "preset": "preset", "method": "method"}
STRENGTH = "recommended_strength"
PARTS = "edit_parts"


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a part of a combined edit erases, how, on which base, at which strength."""

    concept: str | None = None
    method: str | None = None
    preset: str | None = None
    base: str | None = None
    strength: float | None = None


def number(stated: str | None, path: Path) -> float | None:
    """A strength as a file states it; WeightsError unless it is finite."""
    if stated is None:
        return None
    try:
        found = float(stated)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise WeightsError(
            f"{path} states the strength {stated!r}, which is no finite number; export it again"
        )
    return found


def origins_of(stated: str | None, path: Path) -> tuple[Origin, ...]:
    """The parts of a combined edit, as `save` wrote them."""
    if stated is None:
        return ()
    where = f"{PARTS} of {path}"
    options: Any = {"way_out": "combine the edits again", "error": WeightsError}
    parts = []
    for part in parse_json(stated, where, kind=list, **options):
        fields = entry({"part": part}, "part", dict, where=where, **options)
        strength = entry(fields, "strength", float, where=where, **options)
        names = {
            name: entry(fields, name, str, where=where, **options)
            for name in FACTS
            if fields.get(name) is not None
        }
        parts.append(Origin(**names, strength=strength))
    return tuple(parts)
