"""All methods by name, as `method.name` picks them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ea_jax.methods import embedder, esd
from ea_jax.methods.erase_anything import method as erase_anything
from ea_jax.methods.method import Method, Needs
from ea_jax.methods.ready import Ready
from ea_jax.settings import Settings, SettingsError
from ea_jax.settings.fields import did_you_mean, shown


class Entry(NamedTuple):
    """What a run asks of a method: what to prepare, then the method made of it."""

    needs: Callable[[Settings], Needs]
    make: Callable[[Ready], Method]


METHODS = {
    "erase_anything": Entry(erase_anything.needs, erase_anything.make),
    "esd": Entry(esd.needs, esd.make),
    "embedder": Entry(embedder.needs, embedder.make),
}


def chosen(settings: Settings) -> Entry:
    """The method of a run.

    Raises:
      SettingsError: no method has that name.
    """
    name = settings.method.name
    if name not in METHODS:
        near = did_you_mean(name, list(METHODS))
        raise SettingsError(
            f"method.name = {shown(name)} is unknown; use one of {list(METHODS)}{near}"
        )
    return METHODS[name]
