"""What an experiment can set: a frozen section a file, checked as it is made."""

from ea_jax.settings.ca import CaSettings
from ea_jax.settings.concept import ConceptSettings
from ea_jax.settings.data import DataSettings
from ea_jax.settings.eap import EapSettings
from ea_jax.settings.embedder import EmbedderSettings
from ea_jax.settings.esd import EsdSettings
from ea_jax.settings.experiment import SECTIONS, Settings, from_config
from ea_jax.settings.fields import SettingsError
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

__all__ = [
    "SECTIONS",
    "CaSettings",
    "ConceptSettings",
    "DataSettings",
    "EapSettings",
    "EmbedderSettings",
    "EsdSettings",
    "GemSettings",
    "LogSettings",
    "LoraSettings",
    "LossSettings",
    "MaceSettings",
    "MeshSettings",
    "MetaUnlearningSettings",
    "MethodSettings",
    "ModelSettings",
    "OptimSettings",
    "SampleSettings",
    "Settings",
    "SettingsError",
    "UceSettings",
    "from_config",
]
