"""Section `loss`: terms of the two levels, and their forms; see `ea_jax.methods.losses`."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import SettingsError, check, choice, number, optional


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """Terms of the two levels, and their forms; see `ea_jax.methods.losses`.

    Attributes:
      esd, attn: weights of the lower level's terms; a term of weight 0 isn't computed.
      lora, keep, rsc: weights of the upper level's.
      eta: negative guidance of L_esd.
      teacher: L_esd's target comes from the frozen `base`, or from the `student`.
      teacher_guidance: distilled guidance of that teacher; None for a model without.
      attn_form, attn_blocks, attn_queries: how L_attn sums the concept's columns.
      rsc_form: sign and similarity of L_rsc. tau: its temperature.
      features: L_rsc's prompts see one `shared` x_t, or each its own, `denoise`d.
      rsc_t_min: lowest noise level at which L_rsc looks.
      t_draw: noise levels of L_lora and L_keep: `uniform`, `logit_normal`, or the `sampler`'s own.
    """

    esd: float = number(float, low=0)
    attn: float = number(float, low=0)
    lora: float = number(float, low=0)
    keep: float = number(float, low=0)
    rsc: float = number(float, low=0)
    eta: float = number(float, low=0)
    teacher: str = choice("base", "student")
    teacher_guidance: float | None = optional(number(float, low=0))
    attn_form: str = choice("mass", "sum", "release")
    attn_blocks: str = choice("all", "last")
    attn_queries: str = choice("all", "image")
    rsc_form: str = choice("intent", "printed", "release")
    tau: float = number(float, low=0, above=True)
    features: str = choice("shared", "denoise")
    rsc_t_min: float = number(float, low=0, high=1)
    t_draw: str = choice("uniform", "logit_normal", "sampler")

    def __post_init__(self) -> None:
        check(self, "loss")
        if not self.esd and not self.attn:
            raise SettingsError(
                "loss.esd and loss.attn are both 0, so nothing erases; give one a weight"
            )
