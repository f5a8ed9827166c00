"""What a report is made of: folders of finished runs, of attacks on them, and of exam tasks."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from convert.disk import FileError, entry, parse_json, read_json
from ea_jax.evaluate.metrics import Rate
from ea_jax.exam.record import RESULTS
from ea_jax.runtime import run_folder

ATTACKS = "attacks.json"
# What a run leaves; a folder may lack any of them.
GRID, ATTENTION, LOSSES, RECORD = "grid.png", "attention.png", "metrics.jsonl", "run.json"
# Pictures of a task on the page; the others are counted there.
MOST_PICTURES = 24
_WAY_OUT = "make it again, or leave that folder out"
entry_of = functools.partial(entry, way_out=_WAY_OUT)

Rates = dict[str, Rate]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG file: its name or path in a folder, bytes, size in pixels, and what it shows."""

    name: str
    png: bytes
    width: int
    height: int
    shows: str


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, or one that was evaluated again.

    Attributes:
      name: for a reader; unique on the page.
      folder: as it was given.
      config: its config.json.
      results: its results.json.
      measured: each erased word's rates, {"base": ..., "erased": ...}; empty where nothing was.
      record: its run.json; empty where an evaluation left none.
      losses: of the steps that it logged; empty without any.
      grid, attention: its pictures.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    results: dict[str, Any]
    measured: dict[str, dict[str, Rates]]
    record: dict[str, Any]
    losses: list[dict[str, Any]]
    grid: Picture | None
    attention: Picture | None

    @property
    def source(self) -> str:
        """The run's own folder as it was when it ran."""
        return source_of(self.config) or str(self.folder)


@dataclasses.dataclass(frozen=True)
class Attacked:
    """Attacks on a run, as `ea-jax evaluate attacks` leaves them.

    Attributes:
      name, folder, config: as for a run.
      results: its attacks.json.
      rates: success rates by word, then by attack; of no pictures where the base shows nothing.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    results: dict[str, Any]
    rates: dict[str, Rates]

    @property
    def source(self) -> str | None:
        """The attacked run's own folder as it was when it ran."""
        return source_of(self.config)


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of a Markdown text: a heading, a paragraph, or a table with its header first."""

    kind: str
    text: str = ""
    rows: Sequence[Sequence[str]] = ()


@dataclasses.dataclass(frozen=True)
class Examined:
    """A task of the exam.

    Attributes:
      name, folder, config: as for a run.
      task: its name.
      results: its results.json.
      text: its results.md.
      pictures: the first of its PNG files.
      left_out: how many more there are.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    task: str
    results: dict[str, Any]
    text: list[Block]
    pictures: list[Picture]
    left_out: int


def read(folders: Iterable[str | Path]) -> list[Run | Attacked | Examined]:
    """Reads folders, in their order.

    Raises:
      ValueError: one that isn't there, is given twice, holds nothing finished, or is damaged.
    """
    found: list[Run | Attacked | Examined] = []
    given = run_folder.distinct(folders)
    for folder, name in zip(given, _names(given), strict=True):
        there = [file for file in (RESULTS, ATTACKS) if (folder / file).is_file()]
        if not there:
            raise FileError(
                f"{folder} holds neither {RESULTS} nor {ATTACKS}; give folders of finished runs "
                "and tasks"
            )
        if RESULTS in there:
            results = read_json(folder / RESULTS, way_out=_WAY_OUT)
            found.append((_task if "task" in results else _run)(name, folder, results))
        if ATTACKS in there:
            found.append(_attacked(name, folder))
    return found


def source_of(config: Mapping[str, Any]) -> str | None:
    """`log.folder` of a run's config, which its evaluations keep."""
    log = config.get("log")
    return log.get("folder") if isinstance(log, Mapping) else None


def rates_in(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Rate]]:
    """Every rate in a task's results, with the keys that lead to it."""
    if not isinstance(value, dict):
        return
    if type(value.get("hits")) is type(value.get("total")) is int:
        yield path, rate_of(value, where="/".join(path))
        return
    for key, inner in value.items():
        yield from rates_in(inner, (*path, str(key)))


def rate_of(fields: Mapping[str, Any], where: str | Path) -> Rate:
    """A rate from its JSON; FileError for impossible numbers."""
    hits, total = (entry_of(fields, key, int, where=where) for key in ("hits", "total"))
    if not 0 <= hits <= total:
        raise FileError(f"{where}: {hits} of {total} is impossible; {_WAY_OUT}")
    return Rate(hits, total)


def picture(path: Path, shows: str) -> Picture:
    """A PNG as it is; FileError where it is none."""
    try:
        png = path.read_bytes()
        with Image.open(path, formats=["PNG"]) as opened:
            opened.load()
            return Picture(path.name, png, *opened.size, shows)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"{path} is no readable PNG ({reason}); {_WAY_OUT}") from None


def blocks(markdown: str) -> list[Block]:
    """Headings, paragraphs and tables of a Markdown text of ours."""
    found: list[Block] = []
    for part in re.split(r"\n\s*\n", markdown.strip()):
        lines = part.strip().splitlines()
        while lines and lines[0].startswith("#"):
            found.append(Block("heading", lines.pop(0).lstrip("# ")))
        if len(lines) > 1 and all(line.startswith("|") for line in lines):
            found.append(Block("table", rows=[_cells(lines[0]), *map(_cells, lines[2:])]))
        elif lines:
            found.append(Block("paragraph", " ".join(lines)))
    return found


def _names(folders: Sequence[Path]) -> list[str]:
    """The ends of their paths, as long as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    found = []
    for mine in parts:
        length = 1
        while sum(other[-length:] == mine[-length:] for other in parts) > 1:
            length += 1
        found.append("/".join(mine[-length:]))
    return found


def _cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))
    return [cell.strip().replace(r"\|", "|") for cell in cells]


def _run(name: str, folder: Path, results: dict[str, Any]) -> Run:
    where = folder / RESULTS
    concept = entry_of(results, "concept", str, where=where)
    config = run_folder.read_config(folder)
    measured = {}
    if results.get("detector") is not None:
        entry_of(results, "detector", str, where=where)
        words = results.get("words", {concept: results})
        for word in entry_of({"words": words}, "words", dict, where=where):
            both = entry_of(words, word, dict, where=where)
            measured[word] = {
                side: _rates(both, side, f"{where}, {word!r}") for side in ("base", "erased")
            }
            if measured[word]["base"].keys() != measured[word]["erased"].keys():
                raise FileError(f"{where}: base and erased differ in their metrics; {_WAY_OUT}")
    return Run(
        name=name,
        folder=folder,
        config=config,
        results=results,
        measured=measured,
        record=read_json(folder / RECORD, way_out=_WAY_OUT) if (folder / RECORD).exists() else {},
        losses=_losses(folder / LOSSES),
        grid=_if_there(folder / GRID, f"Pictures before and after the erasure of {concept}"),
        attention=_if_there(folder / ATTENTION, f"Attention to {concept}, before and after"),
    )


def _rates(fields: Mapping[str, Any], key: str, where: str) -> Rates:
    rates = entry_of(fields, key, dict, where=where)
    return {
        name: rate_of(entry_of(rates, name, dict, where=where), f"{where}, {key}, {name}")
        for name in rates
    }


def _attacked(name: str, folder: Path) -> Attacked:
    where = folder / ATTACKS
    results = read_json(where, way_out=_WAY_OUT)
    for key in ("concept", "detector"):
        entry_of(results, key, str, where=where)
    rates: dict[str, Rates] = {}
    attacks = entry_of(results, "attacks", dict, where=where)
    for attack in attacks:
        for word, rate in _rates(attacks, attack, str(where)).items():
            rates.setdefault(word, {})[attack] = rate
    return Attacked(name, folder, run_folder.read_config(folder), results, rates)


def _task(name: str, folder: Path, results: dict[str, Any]) -> Examined:
    task = entry_of(results, "task", str, where=folder / RESULTS)
    try:
        text = (folder / "results.md").read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{folder / 'results.md'} can't be read ({error}); {_WAY_OUT}") from None
    files = [
        path
        for path in sorted(folder.rglob("*.png"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return Examined(
        name=name,
        folder=folder,
        config=run_folder.read_config(folder) if (folder / run_folder.CONFIG).exists() else {},
        task=task,
        results=results,
        text=blocks(text),
        pictures=[
            dataclasses.replace(
                picture(path, f"{task}: {path.stem}"), name=str(path.relative_to(folder))
            )
            for path in files[:MOST_PICTURES]
        ],
        left_out=max(0, len(files) - MOST_PICTURES),
    )


def _if_there(path: Path, shows: str) -> Picture | None:
    return picture(path, shows) if path.exists() else None


def _losses(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} can't be read ({error}); {_WAY_OUT}") from None
    found = []
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        values = parse_json(line, where, way_out=_WAY_OUT)
        entry_of(values, "step", int, where=where)
        # A term that was not a number is null.
        for name in [name for name, value in values.items() if value is not None]:
            entry_of(values, name, float, where=where)
        found.append(values)
    return found
