"""What a run leaves in its folder: grids, attention maps, results, the record of the run."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ea_jax.edits import LORA_FILE
from ea_jax.evaluate import probes as probing
from ea_jax.evaluate import report
from ea_jax.evaluate.probes import Detector, Probe, Reading
from ea_jax.flux import latents
from ea_jax.flux.finite import require_finite
from ea_jax.flux.transformer import Text, dual_columns
from ea_jax.methods import pictures
from ea_jax.methods.erasure import Erasure
from ea_jax.runtime.cache import cache_file, keep_json, kept_json
from ea_jax.runtime.fingerprint import checksum, fingerprint, fingerprint_files
from ea_jax.runtime.hosts import all_agree, on_host
from ea_jax.runtime.memory import peak_host_bytes
from ea_jax.runtime.run_folder import write_json, write_text

_log = logging.getLogger(__name__)
# Changes when the same pictures would give other readings, or these are kept in another form.
_VERSION = 2
MAP_T = 0.7  # noise level at which attention is shown: the layout is being decided
PACKAGES = ("ea-jax", "jax", "flax", "optax", "orbax-checkpoint", "transformers", "diffusers")


class Painter:
    """Paints a run's prompts with the frozen model or with an edit of it.

    The frozen model is painted with adapters that change nothing: the same bits, and one
    program for both.
    """

    def __init__(self, erasure: Erasure) -> None:
        erasure.pipeline.load_part("vae")
        self._erasure = erasure
        self.no_edit = erasure.no_edit()
        self._before: np.ndarray | None = None

    def sample(
        self, text: Text, seeds: Sequence[int], adapters: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Latents [P, h, w, C], and their pictures [P, H, W, 3] in [0, 1].

        Args:
          text: encoded prompts in host memory, one for each picture.
          seeds: one for each picture.
          adapters: of an edit; None is the frozen model.
        """
        found, images = [], []
        pipeline = self._erasure.pipeline
        for z_BhwC, count in pictures.sampled(
            pipeline,
            text,
            seeds,
            settings=self._erasure.settings,
            mesh=self._erasure.mesh,
            lora=self.no_edit if adapters is None else adapters,
        ):
            found.append(on_host(z_BhwC)[:count])
            images.append(require_finite(on_host(pipeline.decode(z_BhwC))[:count]))
        return np.concatenate(found), np.concatenate(images)

    def paint(self, prompts: Sequence[str], seeds: Sequence[int], adapters: Any = None):
        """Pictures [P, H, W, 3] in [0, 1] of prompts that the run has encoded."""
        return self.sample(self._erasure.texts.text(prompts), seeds, adapters)[1]

    def before(self) -> np.ndarray:
        """The grid's pictures by the frozen model; painted once."""
        if self._before is None:
            sample = self._erasure.settings.sample
            self._before = self.rows(sample.prompts, sample.seeds)
        return self._before

    def rows(self, prompts: Sequence[str], seeds: Sequence[int], adapters: Any = None):
        """[prompts, seeds, H, W, 3]: each prompt with each seed."""
        pairs = [(prompt, seed) for prompt in prompts for seed in seeds]
        images = self.paint([p for p, _ in pairs], [s for _, s in pairs], adapters)
        return images.reshape(len(prompts), len(seeds), *images.shape[1:])


def write_grid(path: Path, painter: Painter, erasure: Erasure, adapters: Any) -> None:
    """Writes the before/after grid of the config's prompts, plain or pixelated as it says."""
    sample, shown = erasure.settings.sample, erasure.settings.log.pictures
    if shown == "none":
        return
    before = painter.before()
    path.parent.mkdir(exist_ok=True)
    after = painter.rows(sample.prompts, sample.seeds, adapters)
    rows = [
        report.Comparison(prompt, b, a)
        for prompt, b, a in zip(
            sample.prompts, _shown(before, shown), _shown(after, shown), strict=True
        )
    ]
    report.before_after_grid(path, rows)


def write_attention(path: Path, painter: Painter, erasure: Erasure, adapters: Any) -> None:
    """Writes where the image looks for the concept's tokens, before and after."""
    shown = erasure.settings.log.pictures
    if shown == "none":
        return
    bank = erasure.batches.bank
    row = bank.plain()[:1]
    text, columns = bank.text("plain", row), bank.columns("plain", row)
    seed = erasure.settings.sample.seeds[0]
    steps = erasure.steps

    @jax.jit
    def shares(base, x_BSC, text, columns, lora):
        return dual_columns(
            base,
            steps.model,
            x_BSC,
            jnp.full(1, MAP_T),
            text,
            columns,
            grid=steps.grid,
            guidance_B=None if steps.guidance is None else jnp.full(1, steps.guidance),
            lora=lora,
            reduce=_share,
            attention=steps.attention,
        )

    base = erasure.pipeline.weights["transformer"]
    shots, maps = {}, {}
    for name, lora in (("before", painter.no_edit), ("after", adapters)):
        z_BhwC, images = painter.sample(text, [seed], lora)
        shots[name] = _shown(images, shown)[0]
        _, h, w, channels = z_BhwC.shape
        noise_BhwC = latents.noise([seed], (h, w, channels))
        x_BSC = latents.pack((1 - MAP_T) * jnp.asarray(z_BhwC) + MAP_T * noise_BhwC)
        share_LBQ = shares(base, np.asarray(x_BSC), text, columns, lora)
        image_Q = on_host(share_LBQ).mean(0)[0, -steps.grid[0] * steps.grid[1] :]
        maps[name] = image_Q.reshape(steps.grid)
    report.attention_maps(
        path,
        shots,
        maps,
        concept=erasure.settings.concept.word,
        prompt=bank.texts("plain")[row[0]],
    )


def write_results(
    folder: Path,
    painter: Painter,
    erasure: Erasure,
    adapters: Any,
    *,
    probes: Sequence[Probe],
    detector: Detector | None,
) -> str:
    """Measures base and erased with the same seeds; writes results.json and results.md.

    Returns:
      The Markdown table, or the sentence that says why nothing was measured.
    """
    settings = erasure.settings
    facts = {
        "concept": settings.concept.word,
        "preset": settings.preset,
        "base_model": erasure.base,
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
    readings = {
        "base": _base_readings(painter, erasure, probes, detector),
        "erased": _readings("erased", painter, erasure, adapters, probes, detector),
    }
    rates = {name: probing.score(probes, found) for name, found in readings.items()}
    table = report.metrics_table(rates["base"], rates["erased"], detector=detector.name)
    write_json(
        folder / "results.json",
        {
            **facts,
            "detector": detector.name,
            **{
                name: {metric: rate.as_json() for metric, rate in found.items()}
                for name, found in rates.items()
            },
            "probes": [{"prompt": p.prompt, "seed": p.seed} for p in probes],
            "versions": versions(),
        },
    )
    write_text(folder / "results.md", table)
    return table


def _readings(
    name: str,
    painter: Painter,
    erasure: Erasure,
    adapters: Any,
    probes: Sequence[Probe],
    detector: Detector,
) -> list[Reading]:
    return probing.read(
        probes,
        lambda prompts, seeds: painter.paint(prompts, seeds, adapters),
        detector,
        batch=erasure.settings.sample.batch,
        on_batch=_Counter(name, len(probes)),
    )


def _base_readings(
    painter: Painter, erasure: Erasure, probes: Sequence[Probe], detector: Detector
) -> list[Reading]:
    """The frozen model's readings; kept, since every erasure of a concept is compared to them."""
    settings = erasure.settings
    if settings.data.cache is None:
        return _readings("base", painter, erasure, None, probes, detector)
    text = erasure.texts.text(list(dict.fromkeys(probe.prompt for probe in probes)))
    inputs = {
        "version": [_VERSION, pictures.VERSION],
        "base": erasure.base,
        "vae": fingerprint(erasure.pipeline.weights["vae"]),
        "detector": [detector.name, detector.version],
        "text": checksum(text.t5_BTD, text.pooled_BD),
        "probes": [[probe.prompt, probe.seed] for probe in probes],
        "sigmas": list(erasure.steps.sigmas),
        "model": {
            key: getattr(settings.model, key)
            for key in ("resolution", "guidance", "dtype", "attention")
        },
    }
    path = cache_file(settings.data.cache, "readings", inputs, ".json")
    kept = None
    try:
        if path.exists():
            stored = kept_json(path)
            kept = [Reading(frozenset((h, label) for h, label in seen), ok) for seen, ok in stored]
    except (ValueError, OSError, TypeError) as error:
        _log.warning("%s: %s; painting the base again", path, error)
    if all_agree(kept is not None):
        assert kept is not None
        _log.info("read what the base shows from %s", path)
        return kept
    readings = _readings("base", painter, erasure, None, probes, detector)
    keep_json(path, [[sorted(reading.seen), reading.valid] for reading in readings])
    return readings


def write_record(
    folder: Path, erasure: Erasure, config: dict[str, Any], *, seconds: dict[str, float]
) -> None:
    """Writes run.json: what made this LoRA."""
    write_json(
        folder / "run.json",
        {
            "config": config,
            "words": erasure.words,
            "lora": fingerprint_files([folder / LORA_FILE]),
            "training_seeds": {
                name: list(album.seeds)
                for name, album in (
                    ("concept", erasure.batches.concept),
                    ("keep", erasure.batches.keep),
                )
                if album is not None
            },
            "base": erasure.base,
            "attention": erasure.steps.attention,
            "seconds": {**erasure.seconds, **seconds},
            "peak_host_bytes": peak_host_bytes(),
            "devices": [str(device) for device in erasure.mesh.devices.flat],
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


class _Counter:
    """Logs how many pictures are judged, at every doubling and at the end."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total, self._next = name, total, 1

    def __call__(self, done: int) -> None:
        if done >= self._next or done == self._total:
            _log.info("%s: %d of %d pictures judged", self._name, done, self._total)
            self._next = 2 * done


def _share(cols_BHQN: jax.Array, columns: Any) -> jax.Array:
    masked = jnp.where(columns.mask_BN[:, None, None, :], cols_BHQN, 0.0)
    return masked.sum(-1).mean(1)


def _shown(images: np.ndarray, how: str) -> np.ndarray:
    if how == "plain":
        return images
    flat = images.reshape(-1, *images.shape[-3:])
    return report.pixelated(flat).reshape(images.shape)
