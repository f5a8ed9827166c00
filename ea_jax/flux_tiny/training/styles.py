"""Eight renderings of a scene, each recognisable at a glance at 64 px.

Arrays are pictures [H, W, 3], float32 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Picture = np.ndarray
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def pixel_art(picture: Picture) -> Picture:
    """Blocks of 4 px in five levels of each colour."""
    blocks = _cells(picture, 4)
    return np.round(_spread(blocks, 4) * 4) / 4


def sketch(picture: Picture) -> Picture:
    """Graphite on paper: outlines, and hatching where the scene is dark."""
    gray = _gray(picture)
    lines = np.clip(3.0 * _edges(gray), 0, 1)
    rows, columns = np.indices(gray.shape)
    hatch = ((rows + columns) % 8 < 4) * np.clip(0.85 - gray, 0, 1)
    paper = 0.97 - 0.75 * lines - 0.6 * hatch
    return _stack(np.clip(paper, 0, 1))


def mosaic(picture: Picture) -> Picture:
    """Tiles of 4 px in staggered rows, with dark grout between them."""
    size = 4
    out = 0.45 * picture
    for row, top in enumerate(range(0, picture.shape[0], size)):
        for left in range(-(row % 2) * (size // 2), picture.shape[1], size):
            tile = np.s_[top : top + size - 1, max(left, 0) : max(left + size - 1, 0)]
            if picture[tile].size:
                out[tile] = picture[tile].mean((0, 1))
    return out


def sepia(picture: Picture) -> Picture:
    """Brown tones, dark towards the corners."""
    gray = _gray(picture)
    tone = np.array([1.0, 0.80, 0.55], np.float32) * (0.12 + 0.85 * gray[..., None])
    rows, columns = np.indices(gray.shape)
    centre = (np.array(gray.shape) - 1) / 2
    distance = np.hypot(rows - centre[0], columns - centre[1]) / np.hypot(*centre)
    return np.clip(tone * (1 - 0.55 * distance**2)[..., None], 0, 1)


def neon(picture: Picture) -> Picture:
    """Glowing outlines in the scene's hues on black."""
    edges = np.clip(3.5 * _edges(_gray(picture)), 0, 1)
    colour = picture - picture.min(-1, keepdims=True)
    peak = colour.max(-1, keepdims=True)
    hue = np.where(peak > 0.12, colour / np.maximum(peak, 1e-3), [0.2, 1.0, 1.0])
    hue = ndimage.uniform_filter(hue, 5, axes=(0, 1))
    lit = edges[..., None] * (0.25 + 0.75 * hue)
    glow = ndimage.gaussian_filter(lit, (1.5, 1.5, 0))
    return np.clip(0.03 + lit + 0.6 * glow, 0, 1)


def blueprint(picture: Picture) -> Picture:
    """White outlines on blue squared paper."""
    edges = np.clip(3.0 * _edges(_gray(picture)), 0, 1)[..., None]
    paper = np.broadcast_to(np.array([0.10, 0.25, 0.58], np.float32), picture.shape).copy()
    paper[::8] += 0.10
    paper[:, ::8] += 0.10
    return np.clip(paper * (1 - edges) + edges, 0, 1)


def pop_art(picture: Picture) -> Picture:
    """Three hard levels of each colour, black outlines, and red dots where the scene is light."""
    gray = _gray(picture)
    bold = np.round(np.clip(1.25 * (picture - 0.5) + 0.5, 0, 1) * 2) / 2
    rows, columns = np.indices(gray.shape)
    # As coarse as a latent: smaller dots are lost in the VAE.
    dots = (rows % 8 < 4) & ((columns + 4 * (rows // 8 % 2)) % 8 < 4) & (gray > 0.55)
    ink = np.array([0.92, 0.10, 0.35], np.float32)
    dotted = np.where(dots[..., None], 0.4 * bold + 0.6 * ink, bold)
    return np.where(_edges(gray)[..., None] > 0.13, 0.0, dotted)


def watercolour(picture: Picture) -> Picture:
    """Soft washes, darker at their borders, with bare paper around."""
    wash = ndimage.median_filter(ndimage.gaussian_filter(picture, (0.7, 0.7, 0)), (3, 3, 1))
    border = np.clip(1.6 * _edges(_gray(wash)), 0, 0.5)[..., None]
    pale = 0.30 + 0.70 * wash - 0.25 * border
    rows, columns = np.indices(picture.shape[:2])
    ragged = 3.0 + 1.6 * np.sin(rows * 0.7) + 1.6 * np.sin(columns * 0.9 + 1.0)
    inset = np.minimum.reduce(
        [rows, columns, picture.shape[0] - 1 - rows, picture.shape[1] - 1 - columns]
    )
    paper = np.clip((ragged - inset) / 2 + 0.5, 0, 1)[..., None]
    return np.clip(pale * (1 - paper) + 0.97 * paper, 0, 1)


FILTERS: dict[str, Callable[[Picture], Picture]] = {
    "pixel art": pixel_art,
    "sketch": sketch,
    "mosaic": mosaic,
    "sepia": sepia,
    "neon": neon,
    "blueprint": blueprint,
    "pop art": pop_art,
    "watercolour": watercolour,
}


def _gray(picture: Picture) -> np.ndarray:
    return picture @ _LUMA


def _stack(gray: np.ndarray) -> Picture:
    return np.repeat(gray[..., None], 3, axis=-1).astype(np.float32)


def _edges(gray: np.ndarray) -> np.ndarray:
    return np.hypot(ndimage.sobel(gray, 0), ndimage.sobel(gray, 1)) / 4


def _cells(picture: Picture, size: int) -> np.ndarray:
    height, width, _ = picture.shape
    return picture.reshape(height // size, size, width // size, size, 3).mean((1, 3))


def _spread(cells: np.ndarray, size: int) -> Picture:
    return np.repeat(np.repeat(cells, size, axis=0), size, axis=1)
