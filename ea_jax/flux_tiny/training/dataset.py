"""Rendered scenes with captions as arrays on disk, made in shards that survive a kill."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ea_jax.flux_tiny.training.render import Art, render
from ea_jax.flux_tiny.world import SIZE, Scene, caption, sample_scene

SHARD = 2000
CAPTIONS = 8
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Scenes, their pictures and captions.

    Attributes:
      images: uint8 [N, 64, 64, 3] in memory, 12 KB a picture.
      scenes: what each picture shows.
      captions: `CAPTIONS` texts for each picture.
    """

    images: np.ndarray
    scenes: tuple[Scene, ...]
    captions: tuple[tuple[str, ...], ...]


def build(
    folder: str | Path,
    count: int,
    *,
    seed: int,
    draw: Callable[[np.random.Generator], Scene] = sample_scene,
    processes: int | None = None,
) -> Dataset:
    """Renders `count` scenes, or opens them if they are there; goes on where it was cut off.

    Args:
      folder: made if absent.
      count: pictures, rounded up to whole shards of 2,000.
      seed: of scenes and captions; a shard depends on it and its number alone.
      draw: rng -> scene.
      processes: renderers side by side; None is one a core.
    Raises:
      MissingArtError: the emoji art is not installed.
      ValueError: the folder holds scenes of another seed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _require_seed(folder, seed)
    art = Art.load()
    shards = -(-count // SHARD)
    missing = [n for n in range(shards) if not (folder / f"{n:04d}.jsonl").exists()]
    if missing:
        log.info("rendering %d shards of %d scenes", len(missing), SHARD)
        with concurrent.futures.ProcessPoolExecutor(processes) as pool:
            for done in pool.map(
                _shard, *zip(*((folder, n, seed, draw, art) for n in missing), strict=True)
            ):
                log.info("shard %d of %d", done + 1, shards)
    return open_dataset(folder)


def open_dataset(folder: str | Path) -> Dataset:
    """Opens what `build` made.

    Raises:
      ValueError: no such dataset.
    """
    lines = sorted(Path(folder).glob("[0-9]*.jsonl"))
    if not lines:
        raise ValueError(
            f"{folder} holds no scenes; make them with ea_jax.flux_tiny.training.dataset.build"
        )
    images = np.concatenate([np.load(p.with_suffix(".npy")) for p in lines])
    scenes, captions = [], []
    for path in lines:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            captions.append(tuple(row.pop("captions")))
            fields: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in row.items()
            }
            scenes.append(Scene(**fields))
    return Dataset(images, tuple(scenes), tuple(captions))


def joined(*parts: Dataset) -> Dataset:
    """All scenes of several datasets, one dataset after the other."""
    return Dataset(
        np.concatenate([part.images for part in parts]),
        tuple(scene for part in parts for scene in part.scenes),
        tuple(captions for part in parts for captions in part.captions),
    )


def unseen(held_out: Dataset, trained: Dataset) -> Dataset:
    """The scenes of `held_out` whose pictures `trained` does not hold: one in two is drawn again.

    Pictures, since different scenes can look alike: a sketch shows no background.
    """
    seen = {_digest(image) for image in trained.images}
    kept = [i for i, image in enumerate(held_out.images) if _digest(image) not in seen]
    return Dataset(
        held_out.images[kept],
        tuple(held_out.scenes[i] for i in kept),
        tuple(held_out.captions[i] for i in kept),
    )


def _digest(image_HWC: np.ndarray) -> bytes:
    return hashlib.blake2b(image_HWC.tobytes(), digest_size=16).digest()


def _require_seed(folder: Path, seed: int) -> None:
    note = folder / "seed"
    if not note.exists():
        note.write_text(f"{seed}\n", encoding="utf-8")
    elif int(note.read_text(encoding="utf-8")) != seed:
        raise ValueError(f"{folder} holds scenes of another seed than {seed}; give another folder")


def _shard(folder: Path, number: int, seed: int, draw, art: Art) -> int:
    rng = np.random.default_rng((seed, number))
    images = np.empty((SHARD, SIZE, SIZE, 3), np.uint8)
    lines = []
    for i in range(SHARD):
        scene = draw(rng)
        images[i] = render(scene, art)
        texts = [caption(scene, rng) for _ in range(CAPTIONS)]
        lines.append(json.dumps({**dataclasses.asdict(scene), "captions": texts}))
    # Pictures first: a shard counts once its lines are there, whole.
    np.save(folder / f"{number:04d}.npy", images)
    draft = folder / f".{number:04d}.jsonl"
    draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(draft, folder / f"{number:04d}.jsonl")
    return number
