"""Section `mesh`: devices along each axis of the mesh."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import SettingsError, check, number


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Devices along each axis of the mesh; -1 for all that are left. See `ea_jax.runtime.mesh`."""

    data: int = number(int, low=-1)
    fsdp: int = number(int, low=-1)
    tensor: int = number(int, low=-1)

    def __post_init__(self) -> None:
        check(self, "mesh")
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            if size == 0 or (size == -1 and list(sizes.values()).count(-1) > 1):
                raise SettingsError(
                    f"mesh.{name} = {size} is no size; each has to be at least 1, one may be -1"
                )
