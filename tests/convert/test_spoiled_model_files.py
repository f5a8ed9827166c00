"""Spoiled JSON and headers of a model folder: it opens all the same, or one line names the file.

A seeded sweep; SPOILED_FILES=2000 in the environment makes it longer.
"""

from __future__ import annotations

import json
import os
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import convert.diffusers
from convert import files
from ea_jax.flux.pipeline import Pipeline

TRIALS = int(os.environ.get("SPOILED_FILES", "60"))
PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2")
VALUES = [None, "4", "", [], {}, [1], {"a": 1}, -1, 0, 0.5, 1e30, 10**30, float("nan"), True]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """flux-tiny without its judge."""
    folder = tmp_path_factory.mktemp("sound") / "flux-tiny"
    ignored = shutil.ignore_patterns("judge", "README.md", "__pycache__")
    with resources.as_file(resources.files("ea_jax") / "assets" / "flux-tiny") as tiny:
        shutil.copytree(tiny, folder, ignore=ignored)
    return folder


def spoiled_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """A byte changed, put in or left out, the end cut off, or nothing left."""
    at = int(rng.integers(max(len(content), 1)))
    byte = bytes([int(rng.integers(256))])
    return [
        content[:at] + byte + content[at + 1 :],
        content[:at] + byte + content[at:],
        content[:at] + content[at + 1 :],
        content[:at],
        b"",
    ][rng.choice(5, p=[0.5, 0.15, 0.15, 0.15, 0.05])]


def spoiled_value(content: bytes, rng: np.random.Generator) -> bytes:
    """One value somewhere in the JSON is another, or its key is gone or unknown."""
    value = json.loads(content)
    inside = value
    while isinstance(inside, dict | list) and inside:
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        key = keys[int(rng.integers(len(keys)))]
        if not isinstance(inside[key], dict | list) or not inside[key] or rng.random() < 0.4:
            break
        inside = inside[key]
    else:
        return json.dumps(VALUES[int(rng.integers(len(VALUES)))]).encode()
    how = rng.random()
    if how < 0.1:
        del inside[key]
    elif how < 0.2 and isinstance(inside, dict):
        inside[f"{key}x"] = inside.pop(key)
    elif how < 0.25:
        value = VALUES[int(rng.integers(len(VALUES)))]
    else:
        inside[key] = VALUES[int(rng.integers(len(VALUES)))]
    return json.dumps(value).encode()


def spoil(path: Path, rng: np.random.Generator) -> None:
    content, data = path.read_bytes(), b""
    change = spoiled_bytes if rng.random() < 0.4 else spoiled_value
    if path.suffix == ".safetensors":
        length = int.from_bytes(content[:8], "little")
        content, data = content[8 : 8 + length], content[8 + length :]
        content = change(content, rng)
        # In every second one the length is still right, so that the JSON is what is looked at.
        length = len(content) if rng.random() < 0.5 else length
        path.write_bytes(length.to_bytes(8, "little") + content + data)
        return
    path.write_bytes(change(content, rng))


def open_folder(folder: Path) -> None:
    """What is read of a folder before its weights."""
    Pipeline(folder)
    for part in PARTS:
        files.headers(convert.diffusers.weight_files(folder, part))


def fault(said: BaseException, folder: Path, name: str) -> str | None:
    """What is wrong with an error about a spoiled file; None if nothing is."""
    if not isinstance(said, ValueError | OSError):
        return f"{name}: {type(said).__name__}: {said}"
    # A tokenizer's library says no file; its folder is named.
    named = str((folder / name).parent) in str(said)
    return None if named and "\n" not in str(said) else f"{name}: {said}"


def test_a_spoiled_file_is_named_in_one_line_or_does_no_harm(sound, tmp_path):
    rng = np.random.default_rng(22)
    names = sorted(
        str(path.relative_to(sound))
        for path in sound.rglob("*")
        if path.suffix in (".json", ".safetensors")
    )
    assert len(names) == 15
    folder = Path(shutil.copytree(sound, tmp_path / "model"))
    refused, faults = 0, []
    for trial in range(TRIALS):
        name = names[trial % len(names)]
        spoil(folder / name, rng)
        try:
            open_folder(folder)
        except Exception as error:
            refused += 1
            found = fault(error, folder, name)
            if found is not None:
                faults.append(found)
        shutil.copyfile(sound / name, folder / name)
    assert not faults, f"{len(faults)} of {TRIALS}: {faults}"
    assert refused > TRIALS / 3
