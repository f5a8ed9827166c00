"""Checkpoints of a run's state: small, atomic, and fitted to the run that reads them.

The state of training is an adapter, its optimisers' moments, a few latents, a step and a key;
the base weights are no part of it. It is saved with Orbax, synchronously: a save of this size
takes tens of milliseconds, and an error is then raised at the step that caused it.

A state is stored as a flat `{path: array}`, so that what a file holds can be read, and compared
with what a run expects, without rebuilding the classes of an optimiser's state. The file formats
below keep no checksum of what can't be compressed, as trained numbers can't: a checkpoint has its
own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ea_jax.runtime.fingerprint import fingerprint

# A save needs its bytes, and room for the file system's and Orbax's own records.
_SLACK_BYTES = 1 << 20
# Beside the caller's metadata; its number is that of the way to compute it.
_FINGERPRINT = "_fingerprint_2"
_SPACE = "free some space"
_ANY = "see that this folder can be written to"
# What a disk says, whichever library passes it on; and the way out.
_CAUSES = {
    "no space left on device": _SPACE,
    "disk quota exceeded": _SPACE,
    "file too large": _SPACE,
    "permission denied": "let this user write there, or choose another log.folder,",
    "read-only file system": "choose another log.folder",
    "not a directory": "move away the file that is where a folder should be",
    "file exists": "move away what has the checkpoint's name",
}


class SaveError(OSError):
    """A checkpoint could not be written; those before it are untouched."""


class RestoreError(ValueError):
    """A checkpoint doesn't fit the run that wants it, or can't be read."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What `Checkpoints.restore` found: the step's number, its state, and its metadata."""

    step: int
    state: Any
    metadata: dict[str, Any]


class Checkpoints:
    """The last few checkpoints of one folder.

    A step's folder appears under its final name only when all of it is on disk, so a process that
    is killed while it saves leaves the previous step as the latest. What it had half written is
    removed when the folder is opened again.

    Args:
      folder: where the steps go, one folder each; made if absent.
      keep: how many of the latest steps stay.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least 1 checkpoint has to stay")
        self.folder = Path(folder).absolute()
        with _quiet_orbax():
            self._manager = ocp.CheckpointManager(
                self.folder,
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "metadata": ocp.JsonCheckpointHandler(),
                },
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep,
                    enable_async_checkpointing=False,
                    cleanup_tmp_directories=True,
                ),
            )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps that can be restored, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, metadata: Mapping[str, Any]) -> None:
        """Writes a state under its step's number; a step that is there already stays as it is.

        Args:
          step: steps done; larger than every step saved before.
          state: pytree of jax or numpy arrays (PRNG keys too) and Python numbers.
          metadata: what JSON can hold.
        Raises:
          SaveError: the disk is full or can't be written; older checkpoints are kept.
          ValueError: a later step is in the folder.
        """
        latest = self._manager.latest_step()
        if latest == step:
            return
        if latest is not None and latest > step:
            raise ValueError(
                f"step {step} can't be saved: {self.folder} already holds step {latest}; "
                "restore that one, or use another folder"
            )
        arrays = flatten(state)
        self._require_room(step, sum(value.nbytes for value in arrays.values()))
        try:
            with _quiet_orbax():
                self._manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(arrays),
                        metadata=ocp.args.JsonSave(
                            {**metadata, _FINGERPRINT: _fingerprint(arrays)}
                        ),
                    ),
                )
        # TensorStore reports a failing disk as a ValueError, Orbax some of its own as Exception.
        except Exception as error:
            self._remove_unfinished()
            reason = _reason(error)
            raise SaveError(
                f"step {step} can't be saved in {self.folder}: {reason}; "
                f"{_CAUSES.get(reason, _ANY)} and start again: {self._kept()}"
            ) from error

    def restore(self, template: Any, *, step: int | None = None) -> Restored | None:
        """Reads a state back into the structure, dtypes and shardings of a template.

        Args:
          template: pytree like the saved one; leaves are arrays or `jax.ShapeDtypeStruct`, whose
            sharding says where a leaf goes (without one: the first device). A numpy leaf or a
            Python number comes back as such.
          step: which step; the latest by default.
        Returns:
          None if the folder holds no checkpoint.
        Raises:
          RestoreError: the checkpoint holds other arrays than the template, or is damaged.
        """
        if step is None:
            step = self._manager.latest_step()
        if step is None:
            return None
        place = self.folder / str(step)
        wanted = {path: _abstract(leaf) for path, leaf in _paths(template).items()}
        try:
            self._require_fit(step, wanted)
            with _quiet_orbax():
                found = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(wanted),
                        metadata=ocp.args.JsonRestore(),
                    ),
                )
            facts = dict(found["metadata"])
            # Absent from checkpoints of earlier versions.
            if facts.pop(_FINGERPRINT, None) not in (None, _fingerprint(found["state"])):
                raise ValueError("its numbers are not those that were saved")
        except RestoreError:
            raise
        # Orbax wraps what a damaged array raises in an Exception of no kind of its own.
        except Exception as error:
            raise RestoreError(
                f"checkpoint {place} can't be read: {_reason(error)}; "
                "remove that folder to go on from the step before it"
            ) from error
        return Restored(step, unflatten(template, found["state"]), facts)

    def _require_fit(self, step: int, wanted: Mapping[str, Any]) -> None:
        with _quiet_orbax():
            stored = dict(self._manager.item_metadata(step)["state"] or {})
        if not stored:
            raise ValueError("it has no list of its arrays")
        differing = [
            f"{path!r} is {_describe(stored.get(path))} there, {_describe(wanted.get(path))} here"
            for path in [*wanted, *(path for path in stored if path not in wanted)]
            if _describe(stored.get(path)) != _describe(wanted.get(path))
        ]
        if differing:
            raise RestoreError(
                f"checkpoint {self.folder / str(step)} is of another run: {differing[0]} "
                f"({len(differing)} differ); use its config, or another folder"
            )

    def _require_room(self, step: int, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < needed + _SLACK_BYTES:
            raise SaveError(
                f"step {step} can't be saved in {self.folder}: it needs {needed / 2**20:.1f} MiB "
                f"and {free / 2**20:.1f} MiB are free; {_SPACE} and start again: {self._kept()}"
            )

    def _kept(self) -> str:
        latest = self._manager.latest_step()
        return "no earlier step was saved" if latest is None else f"step {latest} is kept"

    def _remove_unfinished(self) -> None:
        if jax.process_index() == 0:
            for path in self.folder.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(path, ignore_errors=True)


def flatten(state: Any) -> dict[str, Any]:
    """`{path: array}` of a pytree, PRNG keys as their data; inverse of `unflatten`."""
    return {path: _storable(leaf) for path, leaf in _paths(state).items()}


def unflatten(template: Any, arrays: Mapping[str, Any]) -> Any:
    """The template's pytree with its leaves taken from `{path: array}`."""
    leaves = [_like(leaf, arrays[path]) for path, leaf in _paths(template).items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _paths(tree: Any) -> dict[str, Any]:
    leaves = jax.tree.leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError("two leaves of the state have the same path; rename one")
    return named


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(key: Any) -> Any:
    found = []
    # Under tracing, since `key_impl` takes no ShapeDtypeStruct.
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), key)
    return found[0]


def _storable(leaf: Any) -> Any:
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct | np.ndarray:
    """What Orbax shall read: a host array stays one, at its full 64 bits where it has them."""
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return np.asarray(leaf)
    sharding = leaf.sharding
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _like(leaf: Any, array: Any) -> Any:
    if _is_key(leaf):
        return jax.random.wrap_key_data(array, impl=_key_impl(leaf))
    if isinstance(leaf, bool | int | float):
        return type(leaf)(array)
    return array


def _fingerprint(arrays: Mapping[str, Any]) -> str:
    """Hash of all arrays, the same on every host, wherever their shards lie."""
    return fingerprint({path: _narrow(array) for path, array in arrays.items()})


def _narrow(array: Any) -> Any:
    """64-bit numbers, which only a host has, as pairs of 32 bits: a device would round them."""
    wide = array.dtype.itemsize == 8
    return np.ascontiguousarray(array).reshape(-1).view(np.uint32) if wide else array


def _describe(leaf: Any) -> str:
    return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"


def _reason(error: Exception) -> str:
    """The part of an error that a person can act on, in one line."""
    text = " ".join(str(error).split())
    for known in _CAUSES:
        if known in text.lower():
            return known
    return text[:200] or type(error).__name__


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Orbax logs a traceback of its threads before it raises; the raised error says it once."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
