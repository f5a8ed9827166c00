"""Folders as runs, attacks and tasks leave them, small and made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import toy_lora
from PIL import Image

from ea_jax import edits
from ea_jax.evaluate.metrics import Rate

VERSIONS = {"python": "3.11.7", "jax": "0.10.2"}


def write(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def paint(path: Path, colour: str = "teal") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), colour).save(path)


def rates(hits: dict[str, tuple[int, int]]):
    return {name: Rate(*counts).as_json() for name, counts in hits.items()}


def config(source: str, word: str = "cat", **more):
    sections = {"concept": {"word": word}, "log": {"folder": source}, "preset": "robust"}
    return {**sections, "sample": {"eval_pictures": 50}, "model": {"text_length": 32}, **more}


BEFORE = {
    **{"Acc_e": (35, 50), "Acc_g": (38, 50), "Acc_ir": (53, 55), "Acc_near": (48, 50)},
    **{"Acc_rest": (37, 43), "valid": (194, 205)},
}


def erased(row: str, word: str, category: str = "", **changes):
    """A row of a task that erases; `changes` are erased counts in place of a good erasure's."""
    after = {**BEFORE, "Acc_e": (0, 50), "Acc_g": (2, 50), **changes}
    both = {"base": rates(BEFORE), "erased": rates(after)}
    return {"row": row, "word": word, "seed": 0, "category": category, **both}


def run(folder: Path, *, word: str = "cat", **changes) -> Path:
    """A finished run; `changes` are erased counts in place of those of a good erasure."""
    results = {"concept": word, "preset": "robust", "base_model": "f31348b3", "detector": "judge"}
    both = erased("", word, **changes)
    results |= {"base": both["base"], "erased": both["erased"], "versions": VERSIONS}
    results["probes"] = [{"prompt": f"a {word} <on> blue", "seed": 1000 + i} for i in range(3)]
    write(folder / "results.json", results)
    write(folder / "config.json", config(str(folder), word))
    write(folder / "run.json", {"lora": "b43e0b74", "training_seeds": {"keep": [7, 8, 9, 12]}})
    lines = [{"step": 10, "lower/esd": 0.5, "lower/attn": None}, {"step": 20, "lower/esd": 0.25}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    paint(folder / "grid.png")
    paint(folder / "attention.png", "orange")
    return folder


def attacks(folder: Path, source: Path, found: dict[str, tuple[int, int]], word: str = "cat"):
    """Attacks on the run in `source`: hits and prompts that the base shows, by attack."""
    made = {name: {word: {**rate, "asked": 24}} for name, rate in rates(found).items()}
    results = {"concept": word, "preset": "robust", "detector": "judge", "attacks": made}
    write(folder / "attacks.json", results)
    write(folder / "config.json", config(str(source), word, strength=None))
    return folder


def task(folder: Path, name: str = "juggle", text: str = "", **content) -> Path:
    write(folder / "results.json", {"task": name, **content})
    (folder / "results.md").write_text(text)
    return folder


def edit(folder: Path, *, strength: float) -> Path:
    """A small edit with a recommended strength, in a run's folder."""
    lora = toy_lora.trained(rank=1)
    return edits.save(edits.Edit(lora, concept="cat", strength=strength), folder)


def attack_task(folder: Path, source: Path, found: dict[str, list], word: str = "cat") -> Path:
    """A task of attacks on `ours` and on zeroed columns.

    Args:
      found: by attack its kind, then (budget, hits on ours, hits on zeroed columns), of 60 prompts.
    """

    def case(hits: int, start: int):
        rate = {**Rate(hits, 60).as_json(), "asked": 60}
        return {"start": start, "asr@1": rate, "prompts": [], "shows": []}

    rows = [
        {
            "attack": name,
            "kind": kind,
            "meaning": "",
            "budget": budget,
            # Of two starts the first fails.
            "victims": {"zeroed columns": [case(zeroed, 0)], "ours": [case(0, 0), case(ours, 1)]},
        }
        for name, (kind, *points) in found.items()
        for budget, ours, zeroed in points
    ]
    protocol = {"concept": word, "edits": {"ours": {"source": str(source), "strength": 0.5}}}
    return task(folder, "attacks", attacks=rows, protocol=protocol)
