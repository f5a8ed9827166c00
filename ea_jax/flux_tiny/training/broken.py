"""Pictures that show nothing: blanks, noise, shuffled and mixed-up scenes, for the judge's "none".

Every function takes scenes uint8 [B, 64, 64, 3] and returns as many broken ones.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ea_jax.flux_tiny import vocabulary
from ea_jax.flux_tiny.training import styles
from ea_jax.flux_tiny.world import SIZE


def blanks(scenes_BHWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Empty backgrounds, of the world's colours in its styles, or of any colour."""
    out = []
    names, filters = tuple(vocabulary.BACKGROUNDS.values()), (None, *styles.FILTERS.values())
    for _ in scenes_BHWC:
        colour = rng.uniform(0, 255, 3)
        if rng.random() < 0.7:
            colour = np.array(names[rng.integers(len(names))])
        picture = np.broadcast_to(colour.astype(np.float32) / 255, (SIZE, SIZE, 3)).copy()
        drawn = filters[rng.integers(len(filters))] if rng.random() < 0.7 else None
        if drawn is not None:
            picture = drawn(picture)
        out.append(_pixels(picture))
    return np.stack(out)


def noise(scenes_BHWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise, from single pixels to soft blots, on a colour of the scene's."""
    out = []
    for scene in scenes_BHWC:
        field = rng.normal(size=(SIZE, SIZE, 3))
        width = rng.choice([0, 0, 1, 2, 4, 6])
        if width:
            field = ndimage.gaussian_filter(field, (width, width, 0), mode="wrap")
        field *= rng.uniform(0.1, 0.4) / field.std()
        out.append(_pixels(scene[0, 0] / 255 + field))
    return np.stack(out)


def drowned(scenes_BHWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scenes under so much noise that little is left of them."""
    strength = rng.uniform(0.75, 1.0, (len(scenes_BHWC), 1, 1, 1))
    mixed = (1 - strength) * (scenes_BHWC / 255) + strength * rng.normal(
        0.5, 0.4, scenes_BHWC.shape
    )
    return _pixels(mixed)


def shuffled(scenes_BHWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Patches of 4, 8 or 16 px in another order."""
    out = []
    for scene in scenes_BHWC:
        side = int(rng.choice([4, 8, 8, 8, 16, 16]))
        patches = _cut(scene, side)
        out.append(_join(patches[rng.permutation(len(patches))], side))
    return np.stack(out)


def mixed(scenes_BHWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Patches of 8 px, a third to two thirds of them from another scene."""
    out = []
    for scene, other in zip(scenes_BHWC, np.roll(scenes_BHWC, 1, 0), strict=True):
        mine, theirs = _cut(scene, 8), _cut(other, 8)
        taken = rng.random(len(mine)) < rng.uniform(0.35, 0.65)
        out.append(_join(np.where(taken[:, None, None, None], theirs, mine), 8))
    return np.stack(out)


def doubled(scenes_BHWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two scenes exposed on one picture."""
    share = rng.uniform(0.4, 0.6, (len(scenes_BHWC), 1, 1, 1))
    return _pixels((share * scenes_BHWC + (1 - share) * np.roll(scenes_BHWC, 1, 0)) / 255)


def blurred(scenes_BHWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scenes blurred until their object is a blot."""
    out = []
    for scene in scenes_BHWC:
        width = rng.uniform(5, 9)
        out.append(_pixels(ndimage.gaussian_filter(scene / 255, (width, width, 0))))
    return np.stack(out)


KINDS = {
    "blank": blanks,
    "noise": noise,
    "shuffled": shuffled,
    "drowned": drowned,
    "mixed": mixed,
    "doubled": doubled,
    "blurred": blurred,
}


def breaks(scenes_BHWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All kinds of broken pictures in turn, one for each scene."""
    kinds = list(KINDS.values())
    out = np.empty_like(scenes_BHWC)
    for number, kind in enumerate(kinds):
        rows = slice(number, None, len(kinds))
        if len(scenes_BHWC[rows]):
            out[rows] = kind(scenes_BHWC[rows], rng)
    return out


def _cut(scene_HWC: np.ndarray, side: int) -> np.ndarray:
    n = SIZE // side
    return scene_HWC.reshape(n, side, n, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)


def _join(patches: np.ndarray, side: int) -> np.ndarray:
    n = SIZE // side
    return patches.reshape(n, n, side, side, 3).swapaxes(1, 2).reshape(SIZE, SIZE, 3)


def _pixels(picture: np.ndarray) -> np.ndarray:
    return np.clip(255 * picture + 0.5, 0, 255).astype(np.uint8)
