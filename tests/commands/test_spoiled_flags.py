"""Command lines that are wrong in one place: an error in one line, and no file is touched.

EA_JAX_FUZZ=300 tries that many lines; a run of the suite tries a few.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from ea_jax import edits, lora, merge, sample, table
from ea_jax.flux.pipeline import Pipeline

LINES = int(os.environ.get("EA_JAX_FUZZ", "24"))
VALUES = [
    *("", " ", "nan", "inf", "-inf", "-1", "-0.5", "0", "1e999", "1e39", "1" * 30, "None", "true"),
    *("[1]", "a b", "ü", "1,2", ",", "--", "=", "{here}", "{file}", "{file}/x", "{here}/absent/x"),
    *("{here}/no.safetensors", "flux-tiny", "flux-tinny", "some/where", "/dev/null", "x" * 300),
]


def stays_right(command: Callable[[list[str]], None], flag: str, value: str) -> bool:
    """Whether the value turns a line into another one that is right."""
    match flag:
        case "--prompt":
            return value != "--"
        case "--strength":
            # 0 leaves nothing to merge, and what is so large no kernel in float16.
            painted = command is sample.main and value in ("0", "1" * 30)
            return painted or value in ("-1", "-0.5")
        case "--guidance":
            return value in ("0", "1" * 30)
        case "--seed":
            return value in ("0", "1,2")
        case "--lora":
            return value == "{here}"
        case "--model":
            return value == "flux-tiny"
        case "--out":
            # Any name will do for a folder that isn't there.
            taken = ("{here}", "{file}", "{file}/x", "/dev/null", "x" * 300)
            return command is merge.main and bool(value.strip()) and value not in taken
    return False


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("spoiled")
    template = Pipeline("flux-tiny").template("transformer")
    adapters = lora.init(jax.random.key(0), template, scope="dual_qk", rank=1)
    random = np.random.default_rng(0)
    adapters = jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape, scale=0.1).astype(np.float32), adapters
    )
    edits.save(edits.Edit(adapters, concept="cat"), folder)
    (folder / "file").write_text("mine")
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


Line = tuple[Callable[[list[str]], None], list[tuple[str, str]]]


def right_lines(out: Path) -> list[Line]:
    small = [("--steps", "1"), ("--size", "16"), ("--text_length", "8"), ("--seed", "3")]
    edit = [("--lora", "{here}"), ("--strength", "0.5")]
    return [
        (sample.main, [("--prompt", "a cat"), *small, *edit, ("--out", f"{out}/a.png")]),
        (
            sample.main,
            [("--prompt", "a cat"), *small, ("--guidance", "2"), ("--out", f"{out}/b.png")],
        ),
        (merge.main, [("--model", "flux-tiny"), *edit, ("--out", f"{out}/merged")]),
    ]


def spoiled(line: Line, random: np.random.Generator) -> tuple[Line, str, str]:
    """A line with one value replaced; the flag, and its new value."""
    command, flags = line
    at = int(random.integers(len(flags)))
    value = VALUES[random.integers(len(VALUES))]
    flag = flags[at][0]
    return (command, [*flags[:at], (flag, value), *flags[at + 1 :]]), flag, value


def run(line: Line, here: Path) -> tuple[int, str]:
    """The exit code of a command in this process, and its error."""
    command, flags = line
    places = {"here": str(here), "file": str(here / "file")}
    arguments = [f"{flag}={value.format(**places)}" for flag, value in flags]
    try:
        command(arguments)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            return 1, stop.code
        return int(stop.code or 0), ""
    return 0, ""


def test_a_line_with_one_wrong_value_says_so_and_touches_nothing(
    here, tmp_path, capsys, monkeypatch
):
    for module in (sample, merge):
        monkeypatch.setattr(module, "start_program", lambda: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    random = np.random.default_rng(7)
    before = contents(here)
    for number in range(LINES):
        out, where = tmp_path / f"out{number}", tmp_path / f"where{number}"
        where.mkdir()
        monkeypatch.chdir(where)
        lines = right_lines(out)
        line, flag, value = spoiled(lines[number % len(lines)], random)
        code, error = run(line, here)
        told = error or capsys.readouterr().err
        shown = f"{line[0].__module__} {flag}={value!r}: code {code}: {told}"
        assert before.items() <= contents(here).items(), shown
        if code == 0:
            assert stays_right(line[0], flag, value), shown
            for made in (here / "absent", here / "no.safetensors"):
                shutil.rmtree(made, ignore_errors=True)
        else:
            assert contents(here) == before, shown
            assert not stays_right(line[0], flag, value), shown
            assert code == 1, shown
            assert told.startswith("error: "), shown
            assert told.strip().count("\n") == 0, shown
            assert not [*out.rglob("*"), *where.rglob("*")], shown


def test_the_lines_are_right_before_one_value_is_spoiled(here, tmp_path, monkeypatch):
    for module in (sample, merge):
        monkeypatch.setattr(module, "start_program", lambda: None)
    for line in right_lines(tmp_path):
        assert run(line, here) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "merged"]


def test_table_names_each_folder_that_is_none(here, capsys):
    for value in ("", "nan", str(here / "file"), str(here / "absent")):
        with pytest.raises(SystemExit) as stop:
            table.main([value])
        assert str(stop.value.code).startswith("error: ")
