"""Where a pipeline lies: a folder, the embedded flux-tiny, or a repository on the hub."""

from __future__ import annotations

import errno
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
      ValueError: neither a folder nor a hub id; a gated repository without a token; no network.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if str(source) == EMBEDDED:
        return Path(str(resources.files("ea_jax") / "assets" / EMBEDDED))
    name = str(source)
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise ValueError(
            f"{name!r} is no folder here; give the folder of a FLUX.1 pipeline, a hub id like "
            f"black-forest-labs/FLUX.1-dev, or {EMBEDDED}"
        )
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
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise ValueError(
                f"the disk is full: {name} was not downloaded; free some space, or set HF_HOME "
                "to a folder with more"
            ) from error
        response = getattr(error, "response", None)
        if getattr(response, "status_code", None) in (401, 403):
            raise ValueError(
                f"the hub refuses this account's token for {name}; let the token read gated "
                "repositories (its settings on huggingface.co), or run 'hf auth login' again"
            ) from error
        # A network fails in many ways, each with a class of its own.
        said = str(error).strip().splitlines()[:1]
        raise ValueError(
            f"{name} is not in the local cache and the hub can't be reached "
            f"({': '.join([type(error).__name__, *said])}); run 'hf download {name}' where there "
            "is a network, and give the folder"
        ) from error
