"""Measures a flux-tiny folder against its bars, with the path table and a contact sheet.

    python -m ea_jax.flux_tiny.training.measure --model flux-tiny --out measured

Writes `measured.json`, `measured.md`, `contact.png` and `readings.jsonl`; started again it goes on
with what `readings.jsonl` lacks.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from PIL import Image

from ea_jax.evaluate import paths, probes
from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.probes import Probe, Reading
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux_tiny import world
from ea_jax.flux_tiny.detector import JudgeDetector
from ea_jax.flux_tiny.training import bars, dataset, train_judge
from ea_jax.flux_tiny.training.bars import Demand
from ea_jax.flux_tiny.training.train_vae import measure_psnr
from ea_jax.flux_tiny.vocabulary import THINGS
from ea_jax.runtime.program import one_line_errors, start_program
from ea_jax.runtime.run_folder import write_json

log = logging.getLogger(__name__)
PATH_TEMPLATES = (
    "a photo of {}, blue background",
    "an image of {}, white background",
    "{}, pink background",
)
PATH_SEED = 3_000_000
TIMED_BATCH = 8


def met(demand: Demand, reading: Reading) -> bool:
    """Whether a picture shows what was asked, and is a picture at all."""
    objects = {label for label in reading.seen if label[0] == "object"}
    stray = demand.alone and objects != {x for x in demand.wanted if x[0] == "object"}
    return reading.valid and demand.wanted <= reading.seen and not stray


def paint_all(
    pipeline: Pipeline,
    detector: JudgeDetector,
    demands: Sequence[Demand],
    *,
    path: Path,
    made_by: dict[str, Any],
    batch: int,
    text_length: int,
    guidance: float | None,
) -> list[bool]:
    """Paints and reads all demands; `path` keeps what is done, a line a picture.

    Args:
      pipeline, detector: that paint and read.
      demands: to be painted.
      path: its first line is `made_by`, so that no table mixes two models.
      made_by: what tells this measurement from others.
      batch, text_length, guidance: as for `Pipeline.paint`.
    Raises:
      ValueError: `path` holds readings of other prompts, or of another model.
    """
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    first, *done = [json.loads(line) for line in lines[: 1 + len(demands)]] or [made_by]
    same = all(
        (row["prompt"], row["seed"]) == (demand.prompt, demand.seed)
        for demand, row in zip(demands, done, strict=False)
    )
    if first != made_by or not same:
        raise ValueError(f"{path} holds another measurement; choose another --out, or delete it")
    results = [
        met(demand, Reading(frozenset(map(tuple, row["seen"])), row["valid"]))
        for demand, row in zip(demands, done, strict=False)
    ]

    def paint(prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        return pipeline.paint(prompts, seeds=seeds, max_length=text_length, guidance=guidance)

    with path.open("a", encoding="utf-8") as stream:
        if not lines:
            stream.write(json.dumps(made_by) + "\n")
        for first in range(len(results), len(demands), batch):
            part = demands[first : first + batch]
            asked = [Probe(demand.prompt, demand.seed, ()) for demand in part]
            readings = probes.read(asked, paint, detector, batch=batch)
            for demand, reading in zip(part, readings, strict=True):
                results.append(met(demand, reading))
                row = {"bar": demand.bar, "prompt": demand.prompt, "seed": demand.seed}
                seen = sorted(map(list, reading.seen))
                row |= {"valid": reading.valid, "seen": seen}
                stream.write(json.dumps(row) + "\n")
            stream.flush()
            log.info("%d of %d pictures", len(results), len(demands))
    return results


def exchanges(count: int, tokenizer: Any, seed: int = 0) -> list[paths.Exchange]:
    """Pairs of prompts for the path table, over all things of the world.

    Two names of a pair have as many tokens, so that a swap exchanges them whole.
    """
    length = {name: len(tokenizer(name)["input_ids"]) for name in THINGS}
    rng = np.random.default_rng((seed, 55))
    made = []
    for number in range(count):
        template = PATH_TEMPLATES[number % len(PATH_TEMPLATES)]
        name = str(rng.choice(THINGS))
        alike = [thing for thing in THINGS if thing != name and length[thing] == length[name]]
        other = str(rng.choice(alike or [thing for thing in THINGS if thing != name]))
        say = lambda n, t=template: t.replace("{}", world.with_article(n, n))  # noqa: E731
        anchor = template.replace(" of {}", "").replace("{}, ", "a ")
        labels = ("object", name), ("object", other)
        made.append(paths.Exchange(say(name), say(other), anchor, name, other, *labels))
    return made


def contact_sheet(
    pipeline: Pipeline, path: Path, *, text_length: int, guidance: float | None, batch: int = 32
) -> None:
    """Writes a PNG: every thing, style, relation, bare and dressed once, row by row."""
    rng = np.random.default_rng(7)
    scenes = [world.thing_scene(name, rng, background="white") for name in THINGS]
    for name in world.STYLE_NAMES:
        scenes.append(world.thing_scene("soccer ball", rng, style=name, background="blue"))
    scenes += [world.relation_scene(n, rng, background="yellow") for n in world.RELATION_NAMES]
    scenes += [world.mannequin_scene(n, rng, background="green") for n in ("nude", "dressed")]
    scenes += [world.pair_scene(name, rng, background="pink") for name in THINGS[:15]]
    prompts = [world.describe(scene, rng, split="train") for scene in scenes]
    images = []
    for first in range(0, len(prompts), batch):
        part = prompts[first : first + batch]
        filled = part + part[-1:] * (batch - len(part))
        seeds = range(first, first + batch)
        painted = pipeline.paint(filled, seeds=seeds, max_length=text_length, guidance=guidance)
        images.extend(painted[: len(part)])
    columns = 16
    sheet = np.ones((-(-len(images) // columns) * 66, columns * 66, 3), np.float32)
    for number, image in enumerate(images):
        top, left = 66 * (number // columns), 66 * (number % columns)
        sheet[top : top + 64, left : left + 64] = image
    Image.fromarray((255 * np.clip(sheet, 0, 1) + 0.5).astype(np.uint8)).save(path)


def seconds_per_image(pipeline: Pipeline, *, text_length: int) -> float:
    """Seconds of one picture of 28 steps in a batch of 8, text and decoder included, compiled."""
    prompts, seeds = ["a photo of a cat"] * TIMED_BATCH, range(TIMED_BATCH)
    pipeline.paint(prompts, seeds=seeds, max_length=text_length)
    best = np.inf
    for _ in range(3):
        began = time.perf_counter()
        pipeline.paint(prompts, seeds=seeds, max_length=text_length)
        best = min(best, time.perf_counter() - began)
    return best / TIMED_BATCH


def count_rows(demands: Sequence[Demand], results: Sequence[bool]) -> dict[str, dict[str, Any]]:
    """Rates by bar, and the concepts that fail most often."""
    rows: dict[str, dict[str, Any]] = {}
    for bar, wanted in bars.BARS.items():
        hits: dict[str, Rate] = {}
        for demand, result in zip(demands, results, strict=True):
            if demand.bar == bar:
                hits[demand.name] = hits.get(demand.name, Rate(0, 0)) + Rate(int(result), 1)
        total = sum(hits.values(), Rate(0, 0))
        worst = sorted(hits, key=lambda name: hits[name].percent)[:10]
        rows[bar] = {
            "bar": wanted,
            **total.as_json(),
            "worst": {name: round(hits[name].percent, 1) for name in worst},
        }
    return rows


def bars_table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown of `count_rows`, with the worst relation or concept beside the mean."""
    lines = ["| judged | percent | 95 % | bar | pictures | worst |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        if not row["total"]:
            continue
        low, high = row["interval"]
        worst = ", ".join(f"{n} {p:.0f}" for n, p in list(row["worst"].items())[:4])
        bar = "-" if row["bar"] is None else f">= {row['bar']:.0f}"
        lines.append(
            f"| {name} | {row['percent']:.1f} | {low:.0f} to {high:.0f} | {bar} | {row['total']} "
            f"| {worst} |"
        )
    return "\n".join(lines) + "\n"


def main(_: list[str]) -> None:
    start_program()
    with one_line_errors():
        _measure(Path(FLAGS.out))


def _measure(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    pipeline = Pipeline.load(FLAGS.model)
    detector = JudgeDetector.load(pipeline.folder / "judge")
    how = {"text_length": FLAGS.text_length, "guidance": FLAGS.guidance}
    found: dict[str, Any] = {
        "model": {name: pipeline.fingerprint(name) for name in pipeline.weights},
        "judge": detector.version,
        **how,
        "jax": jax.__version__,
    }
    report = []
    contact_sheet(pipeline, out / "contact.png", batch=FLAGS.batch, **how)
    log.info("contact sheet: %s", out / "contact.png")
    if FLAGS.only_contact:
        return
    demands = bars.demands(seeds=FLAGS.seeds, each=FLAGS.each)
    if FLAGS.every > 1:
        demands = demands[:: FLAGS.every]
    results = paint_all(
        pipeline,
        detector,
        demands,
        path=out / "readings.jsonl",
        made_by=dict(found),
        batch=FLAGS.batch,
        **how,
    )
    found["bars"] = count_rows(demands, results)
    report.append(bars_table(found["bars"]))
    log.info("%s", report[-1])
    if FLAGS.paths:
        rates = paths.table(
            pipeline,
            exchanges(FLAGS.paths, pipeline.t5_tokenizer),
            detector,
            seed=PATH_SEED,
            batch=FLAGS.batch,
            **how,
        )
        found["paths"] = {
            row: {"own": own.as_json(), "other": other.as_json()}
            for row, (own, other) in rates.items()
        }
        report.append(paths.markdown(rates))
        log.info("%s", report[-1])
    if FLAGS.renders:
        if not FLAGS.trained:
            raise ValueError("--renders needs --trained, the scenes that they may not hold")
        trained = dataset.joined(*map(dataset.open_dataset, FLAGS.trained))
        held_out = dataset.unseen(dataset.open_dataset(FLAGS.renders), trained)
        psnr = measure_psnr(pipeline.weights["vae"], pipeline.vae_config, held_out.images[:1024])
        rates = train_judge.check(detector.judge, held_out)
        found["psnr"] = {"mean": float(psnr.mean()), "p5": float(np.quantile(psnr, 0.05))}
        found["judge"] = {name: rate.as_json() for name, rate in rates.items()}
        report.append(f"VAE: {psnr.mean():.2f} dB\n")
        report += [f"- judge, {n}: {r.percent:.2f} % of {r.total}" for n, r in rates.items()]
    if FLAGS.timed:
        found["seconds_per_image"] = seconds_per_image(pipeline, text_length=FLAGS.text_length)
        report.append(f"\n{found['seconds_per_image']:.3f} s per picture (28 steps, batch of 8)\n")
    write_json(out / "measured.json", found)
    (out / "measured.md").write_text("\n".join(report), "utf-8")
    log.info("%s", report[-1])


FLAGS = flags.FLAGS

if __name__ == "__main__":
    flags.DEFINE_string("model", "flux-tiny", "folder in diffusers' layout with a judge in it")
    flags.DEFINE_string("out", "measured", "folder of results")
    flags.DEFINE_integer("text_length", 32, "T5 tokens, padding included")
    flags.DEFINE_float("guidance", None, "distilled guidance; the pipeline's usual one if not set")
    flags.DEFINE_integer("seeds", 5, "pictures of each object")
    flags.DEFINE_integer("each", 20, "pictures of each style and relation")
    flags.DEFINE_integer("every", 1, "paint only every n-th demand, for a quick look")
    flags.DEFINE_integer("paths", 224, "pictures in each row of the path table; 0 for none")
    flags.DEFINE_integer("batch", 32, "pictures painted at once")
    flags.DEFINE_string("renders", None, "held-out renders, to measure VAE and judge on")
    flags.DEFINE_list("trained", None, "training's renders, to be left out of --renders")
    flags.DEFINE_bool("timed", False, "measure the time of a picture, on an idle machine")
    flags.DEFINE_bool("only_contact", False, "paint the contact sheet alone")
    app.run(main)
