"""A run's folder belongs to one configuration: another one may not write into it.

    claim(folder, config, may_differ=("log",))

writes `config.json` at the first start; at every later one it compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from convert.disk import draft, read_json, reported

CONFIG = "config.json"


class ForeignRunError(ValueError):
    """The folder holds a run of another configuration."""


def claim(folder: str | Path, config: Mapping[str, Any], *, may_differ: Sequence[str] = ()) -> bool:
    """Takes a folder for a configuration, or finds that it was taken for the same one.

    Args:
      folder: made if absent.
      config: nested, of what JSON can hold; with whatever else has to be the same when a run goes
        on, such as a hash of the base weights.
      may_differ: dotted keys or sections that don't change a result, `"log"` or `"log.every"`.
    Returns:
      Whether the folder was taken before: there may be something to resume.
    Raises:
      ForeignRunError: names the first key that differs, and both values; or what lies there
        that no run of ours left.
    """
    path = Path(folder) / CONFIG
    # Through JSON: a tuple and the list it was stored as are the same value.
    here = dict(_leaves(json.loads(json.dumps(config))))
    # Looked for before config.json is, which another host of this run writes before all else.
    stranger = _stranger(path.parent, here.values())
    if not path.exists():
        if stranger is not None:
            raise ForeignRunError(
                f"{folder} has no {CONFIG} but holds {stranger.name}, which is not this run's; "
                "give another folder"
            )
        with reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, config)
        return False
    there = dict(_leaves(json.loads(path.read_text(encoding="utf-8"))))
    for key in [*here, *(key for key in there if key not in here)]:
        if any(key == free or key.startswith(f"{free}.") for free in may_differ):
            continue
        if here.get(key, _ABSENT) != there.get(key, _ABSENT):
            raise ForeignRunError(
                f"{folder} holds a run with {key} = {there.get(key, _ABSENT)}, not "
                f"{here.get(key, _ABSENT)}; give the same value to resume it, or another folder"
            )
    return True


def read_config(folder: str | Path) -> dict[str, Any]:
    """The configuration that a run left in its folder: sections, and `preset`.

    Raises:
      FileError: it is absent or damaged; the message names file and key.
    """
    path = Path(folder) / CONFIG
    config = read_json(path, way_out="give the folder of a run, or start that run anew elsewhere")
    return config


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file as a whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file as a whole or not at all."""
    with draft(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _stranger(folder: Path, values: Iterable[Any]) -> Path | None:
    """The first thing in a folder that the config doesn't name itself, as it may its cache.

    Somebody's LoRA may have the name that ours will have. Hidden files are drafts of a killed run.
    """
    named = [Path(value).absolute() for value in values if isinstance(value, str)]
    own = {folder for path in named for folder in (path, *path.parents)}
    there = sorted(path for path in folder.glob("*") if not path.name.startswith("."))
    return next((path for path in there if path.absolute() not in own), None)


_ABSENT = "absent"


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value
