"""A VAE that is not FLUX's is refused by name, not read as if it were."""

from __future__ import annotations

import pytest

from ea_jax.flux.vae import VaeConfig

FLUX = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def test_flux_vae_divides_by_eight():
    assert VaeConfig.from_json(FLUX).factor == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "relu"}, "act_fn='relu' is not supported"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention=False"),
        ({"use_quant_conv": True}, "use_quant_conv=True"),
        ({"use_quant_conv": None}, "use_quant_conv=None is not supported; it has to be false"),
    ],
)
def test_another_vae_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        VaeConfig.from_json({**FLUX, **change})
