"""How each number was made: commands, versions, hashes, seeds, and every setting."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from ea_jax import erase_command
from ea_jax.exam.page.folders import Attacked, Examined, Run
from ea_jax.flux import hub
from ea_jax.runtime import config_file
from ea_jax.runtime.run_folder import leaves

# Rows of a table of prompts or of settings; the file has them all.
MOST_ROWS = 500
_LONGEST = 600  # letters of a list that is written out
# Too long for a list of settings, and shown apart.
_APART = ("probes", "pictures", "config", "training_seeds")
Pairs = list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Made:
    """How one folder's numbers were made.

    Attributes:
      name, folder: of the folder.
      command: that makes them again; None where the folder doesn't say.
      facts: hashes, versions, seeds, devices, times.
      settings: each key of config.json.
      numbers: each value of the results.
      probes: prompt, seed, and, of attacks, which.
      left_out: how many more probes and numbers the folder's file has.
    """

    name: str
    folder: str
    command: str | None
    facts: Pairs
    settings: Pairs
    numbers: Pairs
    probes: list[tuple[str, ...]]
    left_out: int


def of(found: Run | Attacked | Examined) -> Made:
    """What a folder says of its own making."""
    results, record = found.results, getattr(found, "record", {})
    probes = [
        tuple(str(value) for value in probe.values())
        for probe in results.get("probes", [])
        if isinstance(probe, dict)
    ]
    asked = [*results.get("probes", []), *results.get("pictures", [])]
    facts: Pairs = [("folder", str(found.folder))]
    facts += [
        (f"seeds of {what}", ranges(seeds))
        for what, seeds in (
            *dict(record.get("training_seeds", {})).items(),
            ("evaluation", [probe["seed"] for probe in asked if "seed" in probe]),
        )
        if seeds
    ]
    facts += _said({key: value for key, value in record.items() if key not in (*_APART, "words")})
    numbers = _said({key: value for key, value in results.items() if key not in _APART})
    return Made(
        name=found.name,
        folder=str(found.folder),
        command=_command(found),
        facts=facts,
        settings=_said(found.config),
        numbers=numbers[:MOST_ROWS],
        probes=probes[:MOST_ROWS],
        left_out=max(0, len(probes) - MOST_ROWS) + max(0, len(numbers) - MOST_ROWS),
    )


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in few letters: `1 to 4, 9`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in runs)


def _said(values: Mapping[str, Any]) -> Pairs:
    return [(key, _as_text(value)) for key, value in leaves(dict(values)) if key]


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, list) and len(text) > _LONGEST:
        return f"a list of {len(value)}, which the file has"
    return text


def _command(found: Run | Attacked | Examined) -> str | None:
    if isinstance(found, Examined):
        stated = found.results.get("command")
        return stated if isinstance(stated, str) else None
    config, out = found.config, str(found.folder)
    if isinstance(found, Run) and "strength" not in config:
        return erasing(config)
    words = ["ea-jax", "evaluate", *(["attacks"] if isinstance(found, Attacked) else [])]
    words += ["--run", str(found.source), "--out", out]
    flags = {
        "strength": config.get("strength"),
        "text_length": config.get("model", {}).get("text_length"),
        "pictures": config.get("sample", {}).get("eval_pictures"),
    }
    for name, value in flags.items():
        if value is not None:
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def erasing(config: Mapping[str, Any]) -> str | None:
    """The shortest `ea-jax erase` with a config: its preset, and what differs from it.

    None where the config is of another version, with keys that this one doesn't know.
    """
    model = "tiny" if config.get("model", {}).get("path") == hub.EMBEDDED else "flux-dev"
    variant = f"{model}+{config.get('preset')}"
    try:
        usual = config_file.load(f"{erase_command.CONFIG}:{variant}").to_dict()
    except ValueError:
        return None
    before, here = dict(leaves(usual)), dict(leaves(dict(config)))
    if before.keys() != here.keys():
        return None
    word, words = here.pop("concept.word"), here.pop("concept.words")
    flags = [
        f"--config.{key}={_plain(value)}"
        for key, value in here.items()
        if _plain(value) != _plain(before[key])
    ]
    named = [word] if words is None else [f"--words={words}"]
    how = ["--model", model, "--method", str(config["preset"])]
    return shlex.join(["ea-jax", "erase", *named, *how, *flags])


def _plain(value: Any) -> Any:
    """JSON knows no tuples; a flag takes them."""
    return tuple(value) if isinstance(value, list) else value
