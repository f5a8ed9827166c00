"""What alpha is where no tensor of a LoRA file says it: diffusers' or PEFT's settings.

diffusers keeps them in the file's metadata, PEFT in `adapter_config.json` beside it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert import disk, lora_names
from convert.files import WeightsError

# The key of diffusers' settings in a file's metadata.
SETTINGS = "lora_adapter_metadata"
_PREFIX = "transformer."
_CONFIG = "adapter_config.json"
_EXPORT = "export it again"
_LARGEST = 3.4e38


@dataclasses.dataclass(frozen=True)
class Settings:
    """What PEFT's settings say of the strength.

    Attributes:
      alpha: of every layer that no pattern names.
      patterns: (regular expression that a layer's name ends with, its alpha), the first one wins.
      rslora: alpha is divided by the root of the rank.
    """

    alpha: float
    patterns: tuple[tuple[re.Pattern[str], float], ...] = ()
    rslora: bool = False

    def scale(self, layer: str, rank: int) -> float:
        """What A B is multiplied by."""
        alpha = next((a for pattern, a in self.patterns if pattern.match(layer)), self.alpha)
        return alpha / (rank**0.5 if self.rslora else rank)


def in_metadata(metadata: Mapping[str, str], path: Path) -> Settings | None:
    """The settings in a file's metadata; None where they say nothing of the transformer.

    Raises:
      WeightsError: settings that can't be used; names file and key.
    """
    if SETTINGS not in metadata:
        return None
    where = f"{SETTINGS} in {path}"
    fields = disk.parse_json(metadata[SETTINGS], where, way_out=_EXPORT, error=WeightsError)
    fields = {
        key.removeprefix(_PREFIX): value
        for key, value in fields.items()
        if not lora_names.is_text_encoder(key)
    }
    return _checked(fields, where) if fields else None


def of_ranks(ranks: Mapping[str, int]) -> str:
    """The settings in a file's metadata under which each layer's alpha is its own rank.

    diffusers before 0.41 takes one alpha for all layers where nothing says what it is.

    Args:
      ranks: of each layer, by its name.
    """
    [(common, _)] = Counter(ranks.values()).most_common(1)
    # Patterns also match behind a dot, and so an inner layer that ends in an outer one's name.
    others = {f"^{layer}": rank for layer, rank in ranks.items() if rank != common}
    fields = {
        "r": common,
        "lora_alpha": common,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": list(ranks),
    }
    return json.dumps({f"{_PREFIX}{key}": value for key, value in fields.items()})


def beside(path: Path, *, needed: bool) -> Settings | None:
    """The settings that PEFT saves beside a file.

    Args:
      path: the LoRA's file.
      needed: whether nothing else says what alpha is.
    Raises:
      WeightsError: no such settings though they are needed, or ones that can't be used.
    """
    config = path.parent / _CONFIG
    if not config.is_file():
        if not needed:
            return None
        raise WeightsError(
            f"{path} was saved by PEFT, which keeps alpha in {_CONFIG}; put that file beside it"
        )
    return _checked(disk.read_json(config, way_out=_EXPORT, error=WeightsError), str(config))


def _checked(fields: Mapping[str, Any], where: str) -> Settings:
    def field(key: str, kind: type, otherwise: Any) -> Any:
        # A flag that is null isn't set.
        if key not in fields or (kind is bool and fields[key] is None):
            return otherwise
        return disk.entry(fields, key, kind, where=where, way_out=_EXPORT, error=WeightsError)

    if field("use_dora", bool, False):
        raise WeightsError(f"{where} says that it is a DoRA; {lora_names.EXTRACT}")
    if field("lora_bias", bool, False):
        raise WeightsError(f"{where} says that it has biases; {lora_names.FUSE}")
    if field("r", int, 1) < 1:
        raise WeightsError(f"{where}: 'r' is {fields['r']}, and a rank is at least 1; {_EXPORT}")
    disk.entry(fields, "lora_alpha", float, where=where, way_out=_EXPORT, error=WeightsError)
    alpha = _finite(fields, "lora_alpha", where)
    patterns = field("alpha_pattern", dict, {}) if fields.get("alpha_pattern") is not None else {}
    inside = f"{where}: 'alpha_pattern'"
    compiled = []
    for pattern in patterns:
        disk.entry(patterns, pattern, float, where=inside, way_out=_EXPORT, error=WeightsError)
        try:
            expression = re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, OverflowError, RecursionError) as error:
            raise WeightsError(
                f"{inside}: {pattern!r} is no regular expression ({error}); {_EXPORT}"
            ) from None
        compiled.append((expression, _finite(patterns, pattern, inside)))
    return Settings(alpha, tuple(compiled), field("use_rslora", bool, False))


def _finite(fields: Mapping[str, Any], key: str, where: str) -> float:
    value = fields[key]
    # Compared before it is a float: a whole number of JSON may be too large for one.
    if not abs(value) <= _LARGEST:
        said = value if isinstance(value, float) and not math.isfinite(value) else "too large"
        raise WeightsError(f"{where}: {key!r} is {said}; it has to be finite; {_EXPORT}")
    return float(value)
