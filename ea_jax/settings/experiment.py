"""An experiment: its sections, and what they ask of each other.

A config of `configs/` becomes `Settings` by `from_config`, which wants every key once and no
other. The library takes these sections, never a ConfigDict. An invalid value is an error that names
key, value and what is allowed; an upper bound is where nothing works beyond it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from ea_jax.settings.ca import CaSettings
from ea_jax.settings.concept import ConceptSettings
from ea_jax.settings.data import DataSettings
from ea_jax.settings.eap import EapSettings
from ea_jax.settings.embedder import EmbedderSettings
from ea_jax.settings.esd import EsdSettings
from ea_jax.settings.fields import SettingsError, require_keys, shown
from ea_jax.settings.gem import GemSettings
from ea_jax.settings.log import LogSettings
from ea_jax.settings.lora import LoraSettings
from ea_jax.settings.loss import LossSettings
from ea_jax.settings.mace import MaceSettings
from ea_jax.settings.mesh import MeshSettings
from ea_jax.settings.meta_unlearning import MetaUnlearningSettings
from ea_jax.settings.method import MethodSettings
from ea_jax.settings.model import ModelSettings
from ea_jax.settings.optim import OptimSettings
from ea_jax.settings.sample import SampleSettings
from ea_jax.settings.uce import UceSettings


@dataclasses.dataclass(frozen=True)
class Settings:
    """An experiment. `preset` names the overrides it was made with, for the record."""

    preset: str
    method: MethodSettings
    model: ModelSettings
    concept: ConceptSettings
    lora: LoraSettings
    loss: LossSettings
    embedder: EmbedderSettings
    esd: EsdSettings
    ca: CaSettings
    gem: GemSettings
    eap: EapSettings
    mace: MaceSettings
    meta_unlearning: MetaUnlearningSettings
    uce: UceSettings
    optim: OptimSettings
    data: DataSettings
    sample: SampleSettings
    log: LogSettings
    mesh: MeshSettings

    def __post_init__(self) -> None:
        if not isinstance(self.preset, str):
            raise SettingsError(f"preset = {shown(self.preset)} is no name; it has to be a str")
        if self.data.pool % self.optim.batch:
            raise SettingsError(
                f"optim.batch = {self.optim.batch} doesn't divide data.pool = {self.data.pool}"
            )
        if (self.model.guidance is None) != (self.loss.teacher_guidance is None):
            raise SettingsError(
                "model.guidance and loss.teacher_guidance have to be both numbers, or both None "
                "for a model without guidance"
            )
        if self.concept.sentences and self.data.prompts == "word":
            raise SettingsError(
                "concept.sentences are given, and data.prompts = 'word' trains the word alone; "
                "leave them out, or set data.prompts=sentences"
            )
        if self.embedder.inversions and not self.data.inversions:
            raise SettingsError(
                f"embedder.inversions = {self.embedder.inversions:g} weighs nothing, since "
                "data.inversions is 0; set that to how many are searched for each concept"
            )
        erased_too = self.concept.erase == "word_and_synonyms"
        for source, is_read in (("synonym_source", erased_too), ("irrelevant_source", False)):
            value = getattr(self.concept, source)
            if value not in ("auto", "config") and not self.loss.rsc and not is_read:
                raise SettingsError(
                    f"concept.{source} = {value!r} would go unused, since only L_rsc reads such "
                    "words and loss.rsc is 0; give it a weight, or set the source to 'auto'"
                )

    @property
    def pairs(self) -> int:
        """Lower steps of the run, and as many upper ones: optim.pairs for each word."""
        return self.optim.pairs * len(self.concept.named)


SECTIONS: Mapping[str, type] = {
    name: kind for name, kind in get_type_hints(Settings).items() if name != "preset"
}


def from_config(config: Mapping[str, Any]) -> Settings:
    """Settings of a config: `get_config()`'s ConfigDict, or plain nested dicts.

    Raises:
      SettingsError: a key too many, a key missing, or an invalid value; with its full name.
    """
    require_keys("", config, ["preset", *SECTIONS])
    sections = {}
    for name, kind in SECTIONS.items():
        fields = [field.name for field in dataclasses.fields(kind)]
        require_keys(f"{name}.", config[name], fields)
        sections[name] = kind(
            **{
                field.name: _value(field, config[name][field.name])
                for field in dataclasses.fields(kind)
            }
        )
    return Settings(preset=config["preset"], **sections)


def _value(field: dataclasses.Field, value: Any) -> Any:
    # A flag can only give text: --config.data.cache=None.
    if isinstance(value, str) and value == "None" and field.metadata.get("optional"):
        return None
    return tuple(value) if isinstance(value, list | tuple) else value
