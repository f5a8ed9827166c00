"""All methods by name, as `method.name` picks them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ea_jax import lora
from ea_jax.edits import Edit
from ea_jax.methods import (
    ca,
    eap,
    embedder,
    esd,
    gem,
    mace,
    meta_unlearning,
    uce,
    zeroed_columns,
)
from ea_jax.methods.erase_anything import method as erase_anything
from ea_jax.methods.method import Method, Needs, nothing
from ea_jax.methods.ready import Ready, blank_lora
from ea_jax.settings import Settings, SettingsError
from ea_jax.settings.fields import did_you_mean, shown
from ea_jax.settings.lora import LoraSettings
from ea_jax.settings.loss import LossSettings
from ea_jax.settings.optim import OptimSettings


class Entry(NamedTuple):
    """What a run asks of a method.

    Attributes:
      needs: what to prepare.
      make: the method made of that.
      blank: (settings, the transformer's shapes) -> adapters of its edit's shapes that change
        nothing; none where its edit has no adapters.
      section: of the settings, which it alone reads; none where it has no such section.
      shared: what it reads of sections `lora`, `optim` and `loss` besides `optim.seed`, and of
        those in `data` that not every method reads.
    """

    needs: Callable[[Settings], Needs]
    make: Callable[[Ready], Method]
    blank: Callable[[Settings, Any], Any] = blank_lora
    section: str | None = None
    shared: frozenset[str] = frozenset()


# Read where inversions are searched for.
_SEARCHED = frozenset({"data.inversions", "data.inversion_steps", "data.inversion_rate"})
# Settings of any method's sections that some don't read.
_SHARED = frozenset(
    {
        f"{section}.{field.name}"
        for section, kind in {
            "lora": LoraSettings,
            "optim": OptimSettings,
            "loss": LossSettings,
        }.items()
        for field in dataclasses.fields(kind)
    }
    - {"optim.seed"}
    | {"data.x_t", "data.inversion_rounds", *_SEARCHED}
)
_ADAMW = ("batch", "lr_decay", "b1", "b2", "eps", "weight_decay")
# Every method that trains a LoRA reads these.
_TRAINED = frozenset(
    {"lora.scope", "lora.rank", "lora.alpha", *(f"optim.{name}" for name in _ADAMW)}
)
_TEACHER = _TRAINED | {"loss.teacher_guidance"}
_DRAWN = _TRAINED | {"loss.t_draw"}
METHODS = {
    "erase_anything": Entry(erase_anything.needs, erase_anything.make, shared=_SHARED),
    "esd": Entry(nothing, esd.make, section="esd", shared=_TEACHER),
    "ca_model": Entry(ca.needs, ca.make_model, section="ca", shared=_DRAWN),
    "ca_noise": Entry(ca.needs, ca.make_noise, section="ca", shared=_DRAWN),
    "gem": Entry(nothing, gem.make, section="gem", shared=_TRAINED),
    "eap": Entry(eap.needs, eap.make, section="eap", shared=_TRAINED),
    "mace": Entry(mace.needs, mace.make, mace.blank, "mace", _TRAINED),
    "meta_unlearning": Entry(
        meta_unlearning.needs, meta_unlearning.make, section="meta_unlearning", shared=_DRAWN
    ),
    "embedder": Entry(embedder.needs, embedder.make, embedder.blank, "embedder", _SEARCHED),
    "uce": Entry(nothing, uce.make, uce.blank, "uce"),
    "zeroed_columns": Entry(nothing, zeroed_columns.make, zeroed_columns.blank),
}


def require_read(name: str, plus: str, changed: Iterable[str]) -> None:
    """Refuses settings that a user set and that only other methods read.

    Args:
      name, plus: of section `method`; an unknown name is left to `chosen`.
      changed: full names: `esd.lr`.
    Raises:
      SettingsError: names the first that would go unread.
    """
    if name not in METHODS:
        return
    for key in changed:
        readers = [method for method, entry in METHODS.items() if _reads(entry, key)]
        if readers and name not in readers and plus not in readers:
            added = ", or add method.plus=embedder" if "embedder" in readers else ""
            own = METHODS[name].section
            raise SettingsError(
                f"{key} is set, and method.name = {shown(name)} doesn't read it; leave it out"
                f"{f', set a key of section {own} instead' if own else ''}, or take the method "
                f"{' or '.join(readers)}{added}"
            )


_NEVER = ("log", "data.cache", "mesh", "model.remat", "sample.batch")


def changes_nothing(name: str, plus: str) -> list[str]:
    """Sections of the settings, and dotted keys, of which no value changes a method's result.

    They are `log`, where things are cached, what other methods alone read, and what a run needs to
    go on in less memory or on other devices, which changes last bits alone.

    Args:
      name, plus: of section `method`.
    """
    own = {METHODS[one].section for one in (name, plus) if one in METHODS}
    others = {entry.section for entry in METHODS.values() if entry.section is not None}
    return [*_NEVER, *sorted(others - own)]


def _reads(entry: Entry, key: str) -> bool:
    """Whether a method reads a setting that not all do."""
    return key in entry.shared or key.partition(".")[0] == entry.section


def chosen(settings: Settings) -> Entry:
    """The method of a run.

    Raises:
      SettingsError: no method has that name, or one that leaves no file with one that does.
    """
    name = settings.method.name
    if name not in METHODS:
        near = did_you_mean(name, list(METHODS))
        raise SettingsError(
            f"method.name = {shown(name)} is unknown; use one of {list(METHODS)}{near}"
        )
    entry = METHODS[name]
    if name == "zeroed_columns" and settings.method.plus != "nothing":
        raise SettingsError(
            f"method.plus = {shown(settings.method.plus)} leaves weights, and zeroed_columns is a "
            "setting of the painter, which no file holds; set method.plus=nothing"
        )
    # Nothing is added to itself.
    if settings.method.plus in ("nothing", name):
        return entry
    return Entry(
        lambda settings: either(entry.needs(settings), embedder.needs(settings)),
        lambda ready: with_embedder(entry.make(ready), ready),
        lambda settings, template: lora.concatenate(
            [entry.blank(settings, template), embedder.blank(settings, template)]
        ),
    )


def either(one: Needs, other: Needs) -> Needs:
    """What one of two methods needs, or the other."""

    def check(bank: Any) -> None:
        one.check(bank)
        other.check(bank)

    return Needs(
        contrast=one.contrast or other.contrast,
        concept=one.concept or other.concept,
        keep=one.keep or other.keep,
        anchor=max(one.anchor, other.anchor),
        related=max(one.related, other.related),
        columns=one.columns or other.columns,
        vocabulary=max(one.vocabulary, other.vocabulary, key=lambda wanted: wanted.captions),
        check=check,
    )


def with_embedder(method: Method, ready: Ready) -> Method:
    """A method whose edit also has the closed form of `embedder`.

    It depends on the prompts alone, so it is solved once, with the first edit, and training sees
    none of it: what training does to the word then spreads to its synonyms, while the closed form
    takes what is left of the word.
    """

    solved: list[Any] = []

    def edit(state: Any, weights: Any) -> Edit:
        if not solved:
            solved.append(embedder.solve(ready, weights))
        made = method.edit(state, weights)
        both = lora.concatenate([made.adapters, *solved])
        return dataclasses.replace(made, adapters=both)

    return method._replace(edit=edit)
