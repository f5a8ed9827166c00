"""Chips that are not here: what each offers, and how its compiler is told of it."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

from jax.experimental import topologies
from jax.sharding import Mesh

from ea_jax.runtime.mesh import make_mesh
from ea_jax.runtime.program import GPU_SHARE
from ea_jax.settings import Settings

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a chip offers, from its maker's data sheet.

    Attributes:
      memory: bytes a program can have; of a GPU what a command lets JAX take.
      flops: dense bfloat16 operations a second, peak.
      bandwidth: bytes a second from its memory, peak.
    """

    memory: float
    flops: float
    bandwidth: float


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to compile for.

    Attributes:
      chip: one of them.
      devices: how many.
      platform: `tpu` or `cuda`.
      topology: its name for the compiler.
      options: besides.
    """

    chip: Chip
    devices: int
    platform: str
    topology: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def _nvidia(
    *,
    name: str,
    capability: tuple[int, int],
    cores: int,
    fpus: int,
    shared: int,
    cache: int,
    clock: float,
    memory: int,
    bandwidth: float,
) -> dict[str, Any]:
    """A GPU's description for its compiler; figures are those of OpenXLA's own list of GPUs.

    Args:
      name: of the product.
      capability: CUDA's, major and minor.
      cores, fpus: streaming multiprocessors, and FP32 units in each.
      shared: bytes of shared memory in each, at most.
      cache: bytes of L2.
      clock: GHz.
      memory, bandwidth: bytes, and bytes a second.
    """
    fields = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 48 * 1024,
        "shared_memory_per_block_optin": shared - 1024,
        "shared_memory_per_core": shared,
        "threads_per_core_limit": 2048,
        "core_count": cores,
        "fpus_per_core": fpus,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "thread_dim_limit_x": 1024,
        "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "memory_bandwidth": int(bandwidth),
        "l2_cache_size": cache,
        "clock_rate_ghz": clock,
        "device_memory_size": memory,
        "device_address_bits": 64,
    }
    lines = [f"{key}: {value}" for key, value in fields.items()]
    lines.append(f"cuda_compute_capability {{ major: {capability[0]} minor: {capability[1]} }}")
    lines.append(f'name: "{name}"')
    return {
        "topology": "1x1x1",
        "target_config": f"gpu_device_info {{ {' '.join(lines)} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 } '
        f'device_description_str: "{name}"',
    }


_A100 = _nvidia(
    name="NVIDIA A100-SXM4-40GB", capability=(8, 0), cores=108, fpus=64, shared=164 * 1024,
    cache=40 * 2**20, clock=1.41, memory=42331013120, bandwidth=1555.2e9,
)  # fmt: skip

_H100 = _nvidia(
    name="NVIDIA H100 80GB HBM3", capability=(9, 0), cores=132, fpus=128, shared=228 * 1024,
    cache=50 * 2**20, clock=1.98, memory=84942979072, bandwidth=3352.32e9,
)  # fmt: skip

_V5E = Chip(memory=15.75 * GIB, flops=197e12, bandwidth=819e9)

_V5P = Chip(memory=95 * GIB, flops=459e12, bandwidth=2765e9)

_V6E = Chip(memory=31.25 * GIB, flops=918e12, bandwidth=1640e9)

_ALONE = {"chips_per_host_bounds": [1, 1, 1]}

TARGETS: dict[str, Target] = {
    "v5e-1": Target(_V5E, 1, "tpu", "v5e:1x1", _ALONE),
    "v5e-4": Target(_V5E, 4, "tpu", "v5e:2x2"),
    "v5e-8": Target(_V5E, 8, "tpu", "v5e:2x4"),
    "v5p-1": Target(_V5P, 1, "tpu", "v5p:1x1x1", _ALONE),
    "v5p-4": Target(_V5P, 4, "tpu", "v5p:2x2x1"),
    "v6e-4": Target(_V6E, 4, "tpu", "v6e:2x2"),
    "v6e-8": Target(_V6E, 8, "tpu", "v6e:2x4"),
    "a100": Target(Chip(GPU_SHARE * 42331013120, 312e12, 1555.2e9), 1, "cuda", "1x1x1", _A100),
    "h100": Target(Chip(GPU_SHARE * 84942979072, 989e12, 3352.32e9), 1, "cuda", "1x1x1", _H100),
}

# What each needs, and the package that has it.
_COMPILERS = {"tpu": "libtpu", "cuda": "jax_cuda12_plugin"}


def mesh_for(target: Target, settings: Settings) -> Mesh:
    """The config's mesh over the target's devices.

    Raises:
      ValueError: the compiler isn't installed, or the mesh needs other devices.
    """
    package = _COMPILERS[target.platform]
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{package} is not installed; pip install 'ea-jax[aot]'")
    description = topologies.get_topology_desc(
        platform=target.platform, topology_name=target.topology, **target.options
    )
    return make_mesh(dataclasses.asdict(settings.mesh), description.devices)
