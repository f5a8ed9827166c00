"""FID by torch-fidelity, an optional extra, which brings torch: of folders, or by kept features.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium"
(NeurIPS 2017). torch-fidelity computes what the authors' TensorFlow program did, its Inception
network and its resizing included.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convert import disk
from ea_jax.detectors import extras
from ea_jax.detectors.pixels import Pixels
from ea_jax.runtime.fingerprint import checksum
from ea_jax.runtime.pixels import as_bytes

_SUFFIXES = (".png", ".jpg", ".jpeg")
# Fewer pictures than features leave a covariance singular, and FID far too high.
FEATURES = 2048
_NETWORK = "inception-v3-compat"
_ROWS = 16  # pictures at once
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
    fidelity = extras.require("torch_fidelity", extra="fid")
    folders = [Path(folder) for folder in (pictures, reference)]
    for folder in folders:
        _require_one_size(folder, check(folder)[1], side)
    _require_weights(weights)
    options: dict[str, Any] = {"cache": False, "verbose": False}
    with _reported(weights):
        found = fidelity.calculate_metrics(
            input1=str(folders[0]),
            input2=str(folders[1]),
            fid=True,
            feature_extractor=_NETWORK,
            feature_extractor_weights_path=None if weights is None else str(weights),
            samples_find_deep=False,
            samples_find_ext=",".join(suffix[1:] for suffix in _SUFFIXES),
            samples_resize_and_crop=side or 0,
            batch_size=batch,
            cuda=cuda,
            **options,
        )
    value = float(found["frechet_inception_distance"])
    if not math.isfinite(value):
        raise ValueError(f"FID is {value}; check the weights ({weights}), or give more pictures")
    return value


class Inception:
    """The network of FID, for pictures whose features are kept; `measure` computes the same.

    Args:
      network: torch-fidelity's feature extractor.
    """

    name = "inception"

    def __init__(self, network: Any) -> None:
        self._network = network.requires_grad_(False).eval()
        self._torch = extras.require("torch", extra="fid")
        state = [value.cpu().numpy() for value in network.state_dict().values()]
        self.version = checksum(*state)

    @classmethod
    def load(cls, weights: str | Path | None = None) -> Inception:
        """Loads it, on the CPU; weights and errors as for `measure`."""
        fidelity = extras.require("torch_fidelity", extra="fid")
        _require_weights(weights)
        path = None if weights is None else str(weights)
        with _reported(weights):
            return cls(
                fidelity.FeatureExtractorInceptionV3(
                    _NETWORK, [str(FEATURES)], feature_extractor_weights_path=path
                )
            )

    def features(self, images_BHWC: np.ndarray) -> np.ndarray:
        """Features [B, 2048] float32 of pictures [B, H, W, 3] in [0, 1], rounded to 8 bits."""
        parts = []
        for start in range(0, len(images_BHWC), _ROWS):
            pixels_BCHW = as_bytes(images_BHWC[start : start + _ROWS]).transpose(0, 3, 1, 2)
            (found,) = self._network(self._torch.from_numpy(np.ascontiguousarray(pixels_BCHW)))
            parts.append(found.numpy().astype(np.float32))
        return np.concatenate(parts)


def read(files: Sequence[Path], side: int) -> np.ndarray:
    """Pictures [B, side, side, 3] in [0, 1] of files: resized (bicubic), the middle cut out."""
    pixels = Pixels(side, side, (0.0,) * 3, (1.0,) * 3)
    squares = []
    for file in files:
        with _opened(file) as picture:
            squares.append(pixels.square(picture))
    return pixels.normalised(np.stack(squares))


def check(folder: str | Path) -> tuple[list[Path], dict[tuple[int, int], Path]]:
    """A folder's PNG and JPEG pictures, and one of each size; few of them are a warning.

    Raises:
      ValueError: no folder, fewer than two pictures, or one that can't be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one of PNG or JPEG pictures")
    files = [path for path in disk.shown(folder.iterdir()) if path.suffix.lower() in _SUFFIXES]
    if len(files) < 2:
        raise ValueError(
            f"{folder} holds {len(files)} PNG or JPEG pictures; FID needs two at least, and means "
            f"little below {FEATURES}"
        )
    if len(files) < FEATURES:
        _log.warning(
            "%s holds %d pictures; with fewer than %d, FID is too high, and can be compared only "
            "with one of as many",
            folder,
            len(files),
            FEATURES,
        )
    sizes = {}
    for file in files:
        with _opened(file) as picture:
            sizes.setdefault(picture.size, file)
    return files, sizes


def _require_one_size(folder: Path, sizes: dict[tuple[int, int], Path], side: int | None) -> None:
    if len(sizes) > 1 and side is None:
        (first, one), (second, other) = [*sizes.items()][:2]
        raise ValueError(
            f"{folder} holds pictures of several sizes ({one.name}: {first[0]} x {first[1]}, "
            f"{other.name}: {second[0]} x {second[1]}); give a side that all are cropped to"
        )


def _require_weights(weights: str | Path | None) -> None:
    if weights is not None and not Path(weights).is_file():
        raise ValueError(
            f"{weights} is no file; give torch-fidelity's weights of the Inception network, or "
            "none to download them"
        )


@contextlib.contextmanager
def _reported(weights: str | Path | None) -> Iterator[None]:
    """ValueError for whatever goes wrong inside."""
    try:
        yield
    # Of a download, a file or torch: each has errors of its own.
    except Exception as error:
        said = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        network = "its download" if weights is None else weights
        raise ValueError(
            f"torch-fidelity measured nothing ({said}); check the weights ({network}) and the "
            "pictures"
        ) from error


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as picture:
            yield picture
    except OSError as error:
        raise ValueError(f"{file} can't be read ({error}); remove or replace it") from None
