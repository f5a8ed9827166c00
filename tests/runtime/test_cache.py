"""A cache is a help: what is wrong with it costs time and one warning, never a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.concepts.array_cache import cached
from ea_jax.runtime import cache, compiler
from ea_jax.runtime.metrics import NonFiniteError

ARRAYS = (np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, jnp.bfloat16))


@pytest.fixture(autouse=True)
def warned() -> Iterator[None]:
    cache._warn.cache_clear()
    yield
    cache._warn.cache_clear()


def made(folder: Path, *, seed: int = 0, arrays: tuple = ARRAYS, times: list | None = None):
    def make():
        if times is not None:
            times.append(seed)
        return arrays

    names = [f"x{n}" for n in range(len(arrays))]
    return cached(folder, {"seed": seed}, make, names=names, kind="numbers", what="numbers")


def test_arrays_are_made_once(tmp_path: Path) -> None:
    times: list[int] = []
    for _ in range(2):
        for found, array in zip(made(tmp_path / "new", times=times), ARRAYS, strict=True):
            np.testing.assert_array_equal(found, array)
    assert times == [0]


def test_a_cache_below_a_file_is_one_warning_for_all_that_it_would_keep(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    times: list[int] = []
    for seed in (0, 1, 0):
        found, _ = made(tmp_path / "file", seed=seed, times=times)
        np.testing.assert_array_equal(found, ARRAYS[0])
    cache.keep_json(tmp_path / "file" / "words.json", {})
    assert not cache.is_writable(tmp_path / "file")
    assert times == [0, 1, 0]
    [said] = caplog.messages
    assert f"cache {tmp_path / 'file'} can't be written (it is a file); the run goes on" in said


def test_a_full_disk_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("convert.files.write_arrays", full)
    for seed in range(3):
        made(tmp_path, seed=seed)
    [said] = caplog.messages
    assert "(No space left on device); the run goes on" in said


@pytest.mark.parametrize("spoil", ["cut", "empty", "byte", "list", "null", "folder"])
def test_a_damaged_file_is_made_again(
    tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    spoiled = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "byte": whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:],
        "list": whole[:8] + b"[]".ljust(header - 8) + whole[header:],
        "null": whole[:8] + b'{"x0":null}'.ljust(header - 8) + whole[header:],
    }
    if spoil == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(spoiled[spoil])
    times: list[int] = []
    for found, array in zip(made(tmp_path, times=times), ARRAYS, strict=True):
        np.testing.assert_array_equal(found, array)
    assert times == [0]
    assert "making numbers again" in caplog.messages[0]
    if spoil != "folder":
        assert path.read_bytes() == whole


def test_a_kept_value_comes_back_or_is_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    cache.keep_json(path, {"words": ["nude", "bare"]})
    assert cache.kept_json(path) == {"words": ["nude", "bare"]}
    whole = path.read_text()
    value = json.loads(whole)["value"]
    for text in (
        whole.replace("bare", "base"),
        whole[:-9],
        "",
        "[]",
        "null",
        "[" * 9999,
        json.dumps({"value": value}),
        json.dumps({"value": value, "checksum": None}),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"^damaged"):
            cache.kept_json(path)


def test_numbers_that_are_not_finite_are_never_kept(tmp_path: Path) -> None:
    for array in (np.array([1.0, np.nan]), np.array([np.inf], jnp.bfloat16)):
        for folder in (tmp_path, None):
            with pytest.raises(NonFiniteError, match="NaN or Inf among numbers; check"):
                made(folder, arrays=(array,))  # pyright: ignore[reportArgumentType]
    assert not list(tmp_path.iterdir())


@pytest.fixture
def no_programs() -> Iterator[None]:
    """JAX without a folder for programs, as it is outside tests."""
    given = jax.config.jax_compilation_cache_dir  # pyright: ignore
    least = jax.config.jax_persistent_cache_min_compile_time_secs  # pyright: ignore
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", given)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


@pytest.mark.usefixtures("no_programs")
def test_programs_are_kept_where_they_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    compiler.keep_programs(tmp_path / "file")
    assert jax.config.jax_compilation_cache_dir is None  # pyright: ignore
    [said] = caplog.messages
    assert "can't be written (it is a file)" in said
    compiler.keep_programs(tmp_path / "kept")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "kept" / "programs")  # pyright: ignore
    assert not list((tmp_path / "kept" / "programs").iterdir())
    assert len(caplog.messages) == 1
