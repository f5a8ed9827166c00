"""A run's folder belongs to one configuration: another one may not write into it.

    check(folder, config, may_differ=("log",))  # before the work
    claim(folder, config, may_differ=("log",))  # before the first output

`claim` writes `config.json` at the first start; at every later one it compares, as `check` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from convert.disk import draft, entry, read_json, reported, shown

CONFIG = "config.json"
_ABSENT = "absent"


class ForeignRunError(ValueError):
    """The folder holds a run of another configuration."""


def check(folder: str | Path, config: Mapping[str, Any], *, may_differ: Sequence[str] = ()) -> bool:
    """Finds out whether a folder is new, or was taken for the same configuration.

    Args:
      folder: may be absent.
      config: nested, of what JSON can hold; with whatever else has to be the same when a run goes
        on, such as a hash of the base weights.
      may_differ: dotted keys or sections that don't change a result, `"log"` or `"log.every"`.
    Returns:
      Whether the folder was taken before: there may be something to resume.
    Raises:
      ForeignRunError: names the first key that differs, and both values; or what lies there
        that no run of ours left.
      FileError: config.json is no JSON object.
    """
    path = Path(folder) / CONFIG
    # Through JSON: a tuple and the list it was stored as are the same value.
    here = dict(leaves(json.loads(json.dumps(config))))
    # Looked for before config.json is, which another host of this run writes before all else.
    stranger = _stranger(path.parent, here.values())
    if not path.exists():
        if stranger is not None:
            raise ForeignRunError(
                f"{folder} has no {CONFIG} but holds {stranger.name}, which is not this run's; "
                "give another folder"
            )
        return False
    there = dict(leaves(read_config(folder)))
    for key in [*here, *(key for key in there if key not in here)]:
        if any(key == free or key.startswith(f"{free}.") for free in may_differ):
            continue
        if here.get(key, _ABSENT) != there.get(key, _ABSENT):
            raise ForeignRunError(
                f"{folder} holds a run with {key} = {there.get(key, _ABSENT)}, not "
                f"{here.get(key, _ABSENT)}; give the same value to resume it, or another folder"
            )
    return True


def claim(folder: str | Path, config: Mapping[str, Any], *, may_differ: Sequence[str] = ()) -> bool:
    """Takes a folder for a configuration, or finds that it was taken for the same one.

    Arguments, result and errors as `check`; a folder that is absent is made. Of a folder that was
    taken, config.json is written anew where its keys are not those of `config`.

    Raises:
      OSError: config.json can't be written.
    """
    path = Path(folder) / CONFIG
    if check(folder, config, may_differ=may_differ):
        keys = [{key for key, _ in leaves(one)} for one in (config, read_config(folder))]
        # Another version took the folder; what reads it next wants the keys of this one.
        if keys[0] != keys[1]:
            write_json(path, config)
        return True
    with reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, config)
    return False


def read_config(folder: str | Path, *, sections: Iterable[str] = ()) -> dict[str, Any]:
    """The configuration that a folder was taken for.

    Args:
      folder: of a run.
      sections: keys that have to hold an object each.
    Raises:
      FileError: no config.json, or one that is damaged; names file and key.
    """
    path = Path(folder) / CONFIG
    way_out = f"give the folder of a run, with the {CONFIG} that the run wrote"
    config = read_json(path, way_out=way_out)
    for name in sections:
        entry(config, name, dict, where=path, way_out=way_out)
    return config


def distinct(folders: Iterable[str | Path]) -> list[Path]:
    """Folders that a command was given; ValueError for one that is absent or given twice."""
    given = list(folders)
    # An unset shell variable is not the folder that one stands in.
    if not all(str(folder).strip() for folder in given):
        raise ValueError("a folder's name is empty; give the folders of runs")
    found = [Path(folder) for folder in given]
    seen: set[Path] = set()
    for folder in found:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; give the folders of runs")
        if folder.resolve() in seen:
            raise ValueError(f"{folder} is given twice, and would count twice; give it once")
        seen.add(folder.resolve())
    return found


def require_kinds(folder: str | Path, *, files: Iterable[str], folders: Iterable[str]) -> None:
    """Raises OSError unless each name in a folder is absent, or is what a run will write there.

    Args:
      folder: of a run; may be absent.
      files, folders: names of what the run will write.
    """
    for name in files:
        if (path := Path(folder) / name).is_dir():
            raise OSError(f"{path} is a folder, and the run writes a file there; move it away")
    for name in folders:
        if (path := Path(folder) / name).exists() and not path.is_dir():
            raise OSError(f"{path} is a file, and the run needs a folder there; move it away")


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested config, `("log.every", 10)`."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


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
    there = shown(folder.glob("*"))
    return next((path for path in there if path.absolute() not in own), None)
