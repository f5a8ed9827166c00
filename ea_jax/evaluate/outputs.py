"""What a run leaves in its folder: grids, attention maps, results, the record of the run."""

from __future__ import annotations

import functools
import importlib.metadata
import operator
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ea_jax.concepts.bank import PromptBank
from ea_jax.edits import DELTA_FILE, LORA_FILE, Edit
from ea_jax.evaluate import report
from ea_jax.evaluate.attending import looked
from ea_jax.evaluate.metrics import CONCEPT
from ea_jax.evaluate.probes import Detector
from ea_jax.evaluate.results import Results, measure
from ea_jax.evaluate.task import Task
from ea_jax.methods.pictures import LatentSet
from ea_jax.methods.prepare import Loaded
from ea_jax.painter import Painter, Sampling
from ea_jax.runtime.fingerprint import fingerprint_files
from ea_jax.runtime.memory import peak_host_bytes
from ea_jax.runtime.run_folder import write_json, write_text
from ea_jax.settings import Settings

PACKAGES = ("ea-jax", "jax", "flax", "optax", "orbax-checkpoint", "transformers", "diffusers")


def painter_of(model: Loaded) -> Painter:
    """A painter of a run's prompts, with its settings, on its mesh."""
    return Painter(
        model.pipeline,
        mesh=model.mesh,
        sampling=Sampling.of(model.settings),
        texts=model.texts,
        no_edit=model.no_edit(),
        fingerprint=model.fingerprint,
    )


def write_grid(
    path: Path, painter: Painter, settings: Settings, prompts: Sequence[str], edit: Edit
) -> None:
    """Writes the before/after grid of prompts, plain or pixelated as the config says."""
    seeds, shown = settings.sample.seeds, settings.log.pictures
    if shown == "none":
        return
    before = painter.each(prompts, seeds)
    path.parent.mkdir(exist_ok=True)
    after = painter.each(prompts, seeds, edit=edit)
    rows = [
        report.Comparison(prompt, b, a)
        for prompt, b, a in zip(prompts, _shown(before, shown), _shown(after, shown), strict=True)
    ]
    report.before_after_grid(path, rows)


def write_attention(
    path: Path, painter: Painter, settings: Settings, bank: PromptBank, edit: Edit
) -> None:
    """Writes where the image looks for the concept's tokens, before and after."""
    shown = settings.log.pictures
    if shown == "none":
        return
    row = bank.plain()[:1]
    text, columns = bank.text("plain", row), bank.columns("plain", row)
    shots, maps = {}, {}
    for name, used in (("before", None), ("after", edit)):
        picture, maps_LHW = looked(painter, text, columns, settings.sample.seeds[0], edit=used)
        shots[name] = _shown(picture[None], shown)[0]
        maps[name] = maps_LHW.mean(0)
    report.attention_maps(
        path,
        shots,
        maps,
        concept=settings.concept.named[0],
        prompt=bank.texts("plain")[row[0]],
    )


def write_results(
    folder: Path,
    painter: Painter,
    settings: Settings,
    edit: Edit,
    *,
    tasks: Sequence[Task],
    detector: Detector | None,
    strength: float | None = None,
) -> str:
    """Measures base and erased with the same seeds; writes results.json and results.md.

    Of several concepts each has its own numbers and table; the file's first are their sums.

    Returns:
      The Markdown tables, or the sentence that says why nothing was measured.
    """
    facts = {
        "concept": settings.concept.label,
        "preset": settings.preset,
        "base_model": painter.fingerprint,
    }
    if detector is None:
        reason = (
            "Nothing was measured: sample.eval_pictures is 0"
            if not settings.sample.eval_pictures
            else f"Nothing was measured: {settings.model.path} comes with no detector"
        )
        write_json(folder / "results.json", {**facts, "detector": None, "reason": reason})
        write_text(folder / "results.md", reason + ".\n")
        return reason
    how = {"strength": strength, "cache": settings.data.cache}
    found = {task.concept: measure(painter, edit, task, detector, **how) for task in tasks}
    tables = {word: report.metrics_table(results) for word, results in found.items()}
    if len(tables) > 1:
        tables = {word: f"### {word}\n\n{table}" for word, table in tables.items()}
        facts["words"] = {word: _rates(results) for word, results in found.items()}
    write_json(
        folder / "results.json",
        {
            **facts,
            "detector": detector.name,
            **_rates(functools.reduce(operator.add, found.values())),
            "probes": [{"prompt": p.prompt, "seed": p.seed} for task in tasks for p in task.probes],
            "versions": versions(),
        },
    )
    hints = [_way_out(*one, settings) for one in found.items()] if strength is None else []
    text = "\n".join([*tables.values(), *filter(None, hints)])
    write_text(folder / "results.md", text)
    return text


def _way_out(word: str, results: Results, settings: Settings) -> str:
    """What to try for a word of which more than half is left; nothing if that has been tried."""
    base, erased = (rates[CONCEPT.name].percent for rates in (results.base, results.erased))
    concept = settings.concept
    stated = {"replaced": concept.neutral, "sentence": concept.anchor_sentence}
    if stated.get(concept.anchor) or not erased > base / 2:
        return ""
    return (
        f"Much of {word} is left. If the model paints it even where the prompt doesn't say it, try "
        "a run of this word alone, by a method that trains, with words for what to paint in its "
        'place: --config.concept.anchor=replaced --config.concept.neutral="...".\n'
    )


def _rates(results: Results) -> dict[str, Any]:
    return {
        name: {metric: rate.as_json() for metric, rate in rates.items()}
        for name, rates in (("base", results.base), ("erased", results.erased))
    }


def write_record(
    folder: Path,
    model: Loaded,
    config: dict[str, Any],
    *,
    words: dict[str, Any],
    latent_sets: Mapping[str, LatentSet],
    seconds: dict[str, float],
) -> None:
    """Writes run.json: what made this LoRA."""
    write_json(
        folder / "run.json",
        {
            "config": config,
            "words": words,
            "lora": fingerprint_files(
                [folder / name for name in (LORA_FILE, DELTA_FILE) if (folder / name).is_file()]
            ),
            "training_seeds": {name: list(made.seeds) for name, made in latent_sets.items()},
            "base": model.fingerprint,
            "attention": model.forward.attention,
            "seconds": {**model.laps.seconds, **seconds},
            "peak_host_bytes": peak_host_bytes(),
            "devices": [str(device) for device in model.mesh.devices.flat],
            "versions": versions(),
        },
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # a checkout on PYTHONPATH


def _shown(images: np.ndarray, how: str) -> np.ndarray:
    if how == "plain":
        return images
    flat = images.reshape(-1, *images.shape[-3:])
    return report.pixelated(flat).reshape(images.shape)
