"""Where a model lies: a folder, the embedded flux-tiny, or a repository on the hub."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

EMBEDDED = "flux-tiny"


def locate(source: str | Path, patterns: list[str], revision: str | None = None) -> Path:
    """Returns the folder of a pipeline, downloading what `patterns` name if it is a hub id.

    Args:
      source: a folder, `flux-tiny`, or a hub id like `black-forest-labs/FLUX.1-dev`.
      patterns: files to download, as globs.
      revision: branch, tag or commit on the hub.
    Raises:
      ValueError: as `locate_model`.
    """
    if str(source) == EMBEDDED and not Path(source).exists():
        return Path(str(resources.files("ea_jax") / "assets" / EMBEDDED))
    return locate_model(
        source,
        patterns,
        revision,
        folder="the folder of a FLUX.1 pipeline in diffusers' layout",
        ids=f"black-forest-labs/FLUX.1-dev, or {EMBEDDED}",
    )


def locate_model(
    source: str | Path, patterns: list[str], revision: str | None = None, *, folder: str, ids: str
) -> Path:
    """Returns the folder of any model, downloading what `patterns` name if it is a hub id.

    Args:
      source: a folder, or a hub id.
      patterns: files to download, as globs.
      revision: branch, tag or commit on the hub.
      folder: what kind of folder is wanted, for messages.
      ids: an example of a hub id, for messages.
    Raises:
      ValueError: empty, a file, neither a folder nor a hub id; a gated repository without a
        token, or with one that is refused; no network; a full disk. Of anything else, its first
        line.
    """
    if not str(source).strip():
        raise ValueError(f"the model is empty; give a folder, or a hub id like {ids}")
    try:
        path = Path(source).expanduser()
    except RuntimeError:  # ~somebody who is unknown here
        path = Path(source)
    if path.is_file():
        raise ValueError(f"{path} is a file; give {folder}")
    if path.is_dir():
        return path
    name = str(source)
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise ValueError(f"{name!r} is no folder here; give {folder}, a hub id like {ids}")
    try:
        return Path(
            huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns)
        )
    except errors.GatedRepoError:
        raise ValueError(
            f"{name} is gated: accept its licence at https://huggingface.co/{name}, then run "
            "'hf auth login' or set HF_TOKEN, and start again"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"{name!r} is neither a folder here nor a repository that this account sees on the "
            "hub; check the spelling, or run 'hf auth login'"
        ) from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{name} has no revision {revision!r}; leave it out for main") from None
    except Exception as error:
        # A network, a disk or a token fails deep down; the hub's library wraps it in its own words.
        chain = [*_causes(error)]
        if any(_is_full(cause) for cause in chain):
            raise ValueError(
                f"{name} was not downloaded: the disk is full; free some space, or set HF_HOME to "
                "a folder with more"
            ) from error
        if any(_status(cause) in (401, 403) for cause in chain):
            raise ValueError(
                f"the hub refuses this account's token for {name}; let the token read gated "
                "repositories (its settings on huggingface.co), or run 'hf auth login' again"
            ) from error
        said = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        if any(isinstance(cause, _NO_NETWORK) for cause in chain):
            raise ValueError(
                f"{name} is not in the local cache and the hub can't be reached ({said}); run 'hf "
                f"download {name}' where there is a network, and give the folder"
            ) from error
        raise ValueError(
            f"{name} was not downloaded ({said}); start again, or run 'hf download {name}' and "
            "give the folder"
        ) from error


def is_here(source: str | Path) -> bool:
    """Whether a pipeline that was located is a folder of this machine, not of the hub's cache."""
    return str(source) == EMBEDDED or Path(source).expanduser().is_dir()


_NO_NETWORK = (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, ConnectionError, TimeoutError)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: BaseException) -> bool:
    """The parallel download is not Python: its error has the words, not the number."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
