"""Shape of a FLUX transformer, as its config.json states it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ea_jax.flux import described
from ea_jax.settings.fields import check, flag, integers


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Shape of a FLUX transformer; the names are those of diffusers' config.json."""

    in_channels: int = described.width(64)
    num_layers: int = described.layers(19)
    num_single_layers: int = described.layers(38)
    attention_head_dim: int = described.width(128)
    num_attention_heads: int = described.width(24)
    joint_attention_dim: int = described.width(4096)
    pooled_projection_dim: int = described.width(768)
    guidance_embeds: bool = flag(default=True)
    axes_dims_rope: tuple[int, ...] = integers(least=3, low=1, default=(16, 56, 56))

    def __post_init__(self) -> None:
        check(self, "transformer")
        axes_dims = self.axes_dims_rope
        if len(axes_dims) != 3 or any(width % 2 for width in axes_dims):
            raise ValueError(f"axes_dims_rope={axes_dims} must be three even widths")
        if sum(axes_dims) != self.attention_head_dim:
            raise ValueError(
                f"axes_dims_rope={axes_dims} must add up to "
                f"attention_head_dim={self.attention_head_dim}"
            )

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def from_json(
        cls, config: dict[str, Any], where: str | Path = "transformer/config.json"
    ) -> TransformerConfig:
        """Reads a `transformer/config.json`; `where` names it in messages.

        Raises:
          ValueError: another model class, a key that is missing or has an invalid value, or a
            variant of FLUX whose input and output widths differ (Fill, Canny, Depth).
        """
        name = config.get("_class_name", "FluxTransformer2DModel")
        if name != "FluxTransformer2DModel":
            raise ValueError(
                f"{where}: the transformer is a {name!r}, not a FluxTransformer2DModel"
            )
        if config.get("out_channels") not in (None, config.get("in_channels")):
            raise ValueError(
                f"{where}: transformer has in_channels={config.get('in_channels')} and "
                f"out_channels={config['out_channels']}; only text-to-image FLUX, where they are "
                "equal, is supported (not Fill, Canny, Depth)"
            )
        return described.read(config, cls, _RULES, where)


_RULES = described.Rules(
    fixed={"patch_size": (1,)},
    harmless={"out_channels"},
    required={field.name for field in dataclasses.fields(TransformerConfig)} - {"axes_dims_rope"},
)
