"""How a CLIP's folder says that pictures are prepared, as CLIPImageProcessor reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from convert import disk
from convert.disk import FileError
from ea_jax.detectors.pixels import Pixels

_WAY_OUT = "download the folder again"
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_FIXED = {
    "do_resize": True,
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_convert_rgb": True,
    "resample": int(Image.Resampling.BICUBIC),
}


def read(folder: Path, image_size: int) -> Pixels:
    """Reads `preprocessor_config.json`, or what newer versions write: `processor_config.json`.

    Where there is neither, CLIP's usual numbers are taken.

    Args:
      folder: of the model.
      image_size: side of the encoder's pictures.
    Raises:
      FileError: a damaged file, a step that is not supported, or a crop of another size.
    """
    where = folder / "preprocessor_config.json"
    if where.exists():
        fields = disk.read_json(where, way_out=_WAY_OUT)
    elif (where := folder / "processor_config.json").exists():
        whole = disk.read_json(where, way_out=_WAY_OUT)
        fields = disk.entry(whole, "image_processor", dict, where=where, way_out=_WAY_OUT)
    else:
        return Pixels(image_size, image_size, _MEAN, _STD)
    for key, value in _FIXED.items():
        if fields.get(key, value) != value:
            raise FileError(f"{where}: {key}={fields[key]!r} is not supported; CLIP has {value!r}")
    shortest = _side(fields, "size", ("shortest_edge",), where)
    crop = _side(fields, "crop_size", ("height", "width"), where)
    if crop != image_size or shortest < crop:
        raise FileError(
            f"{where}: resized to {shortest} px and cropped to {crop} px, but the encoder sees "
            f"{image_size} px; both files have to be of the same model"
        )
    return Pixels(
        shortest,
        crop,
        _channels(fields, "image_mean", _MEAN, where),
        _channels(fields, "image_std", _STD, where),
    )


def _side(fields: dict[str, Any], key: str, names: Sequence[str], where: Path) -> int:
    """A length: a number in older files, an object with these names in newer ones."""
    value = fields.get(key)
    if isinstance(value, dict):
        sides = {
            disk.entry(value, name, int, where=f"{where}: {key}", way_out=_WAY_OUT)
            for name in names
        }
    elif isinstance(value, int) and not isinstance(value, bool):
        sides = {value}
    else:
        raise FileError(f"{where}: {key}={value!r} is no length in pixels; {_WAY_OUT}")
    if len(sides) > 1 or min(sides) < 1:
        raise FileError(f"{where}: {key}={value!r} is not supported; CLIP has squares")
    return sides.pop()


def _channels(
    fields: dict[str, Any], key: str, usual: tuple[float, ...], where: Path
) -> tuple[float, ...]:
    value = fields.get(key, usual)
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise FileError(f"{where}: {key}={value!r} has to be three numbers; {_WAY_OUT}")
    numbers = dict(enumerate(value))
    found = tuple(
        disk.entry(numbers, channel, float, where=f"{where}: {key}", way_out=_WAY_OUT)
        for channel in numbers
    )
    if key == "image_std" and min(found) <= 0:
        raise FileError(f"{where}: {key}={value!r} has to be above 0; {_WAY_OUT}")
    return found
