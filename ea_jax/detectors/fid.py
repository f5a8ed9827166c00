"""FID of two folders of pictures, by torch-fidelity: an optional extra, which brings torch.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium"
(NeurIPS 2017). torch-fidelity computes what the authors' TensorFlow program did, its Inception
network and its resizing included.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from pathlib import Path
from typing import Any

from PIL import Image

_SUFFIXES = (".png", ".jpg", ".jpeg")
# Fewer pictures than features leave a covariance singular, and FID far too high.
_FEATURES = 2048
_log = logging.getLogger(__name__)


def measure(
    pictures: str | Path,
    reference: str | Path,
    *,
    weights: str | Path | None = None,
    side: int | None = None,
    batch: int = 64,
    cuda: bool = False,
) -> float:
    """Fréchet distance of two folders' Inception features; 0 for the same pictures.

    Args:
      pictures, reference: folders of PNG or JPEG pictures; what lies in folders below is not read.
      weights: torch-fidelity's file of the Inception network; None lets it download the file. It
        is a pickle, which can run any program: give one that you trust.
      side: pictures are resized and cropped to a square of this many pixels first, which pictures
        of several sizes need.
      batch: pictures at once.
      cuda: computes on torch's GPU.
    Raises:
      ValueError: torch-fidelity isn't installed, a folder without two pictures, a picture that
        can't be read, several sizes without a `side`, or weights that are none.
    """
    if importlib.util.find_spec("torch_fidelity") is None:
        raise ValueError(
            "FID needs torch-fidelity, which is not installed; install the extra: "
            "pip install 'ea-jax[fid]'"
        )
    folders = [Path(folder) for folder in (pictures, reference)]
    for folder in folders:
        _check(folder, side)
    if weights is not None and not Path(weights).is_file():
        raise ValueError(
            f"{weights} is no file; give torch-fidelity's weights of the Inception network, or "
            "none to download them"
        )
    # Imported where it is asked for: it loads torch.
    import torch_fidelity  # pyright: ignore[reportMissingImports]

    options: dict[str, Any] = {"cache": False, "verbose": False}
    try:
        found = torch_fidelity.calculate_metrics(
            input1=str(folders[0]),
            input2=str(folders[1]),
            fid=True,
            feature_extractor="inception-v3-compat",
            feature_extractor_weights_path=None if weights is None else str(weights),
            samples_find_deep=False,
            samples_find_ext=",".join(suffix[1:] for suffix in _SUFFIXES),
            samples_resize_and_crop=side or 0,
            batch_size=batch,
            cuda=cuda,
            **options,
        )
    # Of a download, a file or torch: each has errors of its own.
    except Exception as error:
        said = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        network = "its download" if weights is None else weights
        raise ValueError(
            f"torch-fidelity measured nothing ({said}); check the weights ({network}) and the "
            "pictures"
        ) from error
    value = float(found["frechet_inception_distance"])
    if not math.isfinite(value):
        raise ValueError(f"FID is {value}; check the weights ({weights}), or give more pictures")
    return value


def _check(folder: Path, side: int | None) -> None:
    """ValueError unless torch-fidelity can read the folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one of PNG or JPEG pictures")
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _SUFFIXES]
    if len(files) < 2:
        raise ValueError(
            f"{folder} holds {len(files)} PNG or JPEG pictures; FID needs two at least, and means "
            f"little below {_FEATURES}"
        )
    if len(files) < _FEATURES:
        _log.warning(
            "%s holds %d pictures; with fewer than %d, FID is too high, and can be compared only "
            "with one of as many",
            folder,
            len(files),
            _FEATURES,
        )
    sizes = {}
    for file in files:
        try:
            with Image.open(file) as picture:
                sizes.setdefault(picture.size, file)
        except OSError as error:
            raise ValueError(f"{file} can't be read ({error}); remove or replace it") from None
    if len(sizes) > 1 and side is None:
        (first, one), (second, other) = [*sizes.items()][:2]
        raise ValueError(
            f"{folder} holds pictures of several sizes ({one.name}: {first[0]} x {first[1]}, "
            f"{other.name}: {second[0]} x {second[1]}); give a side that all are cropped to"
        )
