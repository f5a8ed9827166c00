"""Settings of the test process, and pipelines that many tests read (never write)."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from places import FLUX_TOKENIZERS, NLTK_DATA, ROOT

# Compiled programs are kept between test runs, also those of programs the tests start: the small
# ones, too, since each program starts with dozens of them.
_CACHE = ROOT / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and run little of it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
    # Eight devices that share a busy core may keep each other waiting for long.
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
)
# Nor do tests need the lines of Python that each operation comes from.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# No test may reach for a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax
import pytest

from ea_jax.runtime import program

# Of the 65,530 that Linux allows a process; each compiled program takes a few.
_MANY_MAPS = 30_000
gc.set_threshold(*program.COLLECT_AT)
# Sharding is tested on devices that are slices of this CPU; programs that tests start see one.
jax.config.update("jax_num_cpu_devices", 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: begun last, one would keep a worker busy while the other is done."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True, scope="module")
def _a_worker_stays_small() -> Iterator[None]:
    """Programs of earlier files go before the kernel refuses a process more memory maps."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > _MANY_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def wordnet_reader() -> Iterator[Any]:
    """WordNet from ../shared, as if it were installed; gone again for the files that follow."""
    if not NLTK_DATA.is_dir():
        pytest.skip("no WordNet in ../shared/data/nltk_data")
    import nltk

    from ea_jax.concepts import wordnet

    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(nltk.data, "path", [str(NLTK_DATA)])
        yield wordnet.load()
    nltk.corpus.wordnet._unload()


@pytest.fixture(scope="session")
def dev_folder(tmp_path_factory) -> Path:
    """A small random pipeline like FLUX.1-dev, letter-wise tokenizers, saved by diffusers."""
    random_flux = pytest.importorskip("random_flux", reason="needs torch")
    return random_flux.save(random_flux.build(), tmp_path_factory.mktemp("flux") / "dev")


@pytest.fixture(scope="session")
def schnell_folder(tmp_path_factory) -> Path:
    """Like `dev_folder`, without guidance and without dynamic shift."""
    random_flux = pytest.importorskip("random_flux", reason="needs torch")
    pipeline = random_flux.build(guidance=False)
    return random_flux.save(pipeline, tmp_path_factory.mktemp("flux") / "schnell")


@pytest.fixture(scope="session")
def flux_dev_like_folder(tmp_path_factory) -> Path:
    """FLUX.1-dev's tensor names, shards and tokenizers at a tiny width, saved by diffusers."""
    random_flux = pytest.importorskip("random_flux", reason="needs torch")
    if not FLUX_TOKENIZERS.is_dir():
        pytest.skip(f"{FLUX_TOKENIZERS} with FLUX's own tokenizers is absent")
    pipeline = random_flux.build(tokenizers=FLUX_TOKENIZERS, size=random_flux.DEV_LIKE)
    folder = tmp_path_factory.mktemp("flux") / "dev-like"
    return random_flux.save(pipeline, folder, max_shard_size="3MB")
