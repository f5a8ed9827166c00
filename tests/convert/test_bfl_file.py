"""Black Forest Labs' single file of the transformer."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from bfl_layout import bfl_tensors
from safetensors.numpy import save_file
from toy_weights import CONFIG, random_like, same, template

import convert.bfl
from convert import WeightsError


@pytest.fixture(scope="module")
def weights():
    return random_like(template())


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_black_forest_labs_file_loads_as_the_same_bits(weights, tmp_path, prefix):
    tensors = {prefix + name: array for name, array in bfl_tensors(weights).items()}
    save_file(tensors, tmp_path / "flux1.safetensors")
    same(convert.bfl.load(template(), tmp_path / "flux1.safetensors"), weights)


def test_a_part_of_swapped_halves_and_fused_projections_is_read_from_its_place(weights, tmp_path):
    save_file(bfl_tensors(weights), tmp_path / "flux1.safetensors")
    # Across the border of the swapped halves, and on either side of it.
    for low, high in ((0.25, 0.75), (0, 0.25), (0.75, 1)):
        part = lambda _, shape, low=low, high=high: tuple(  # noqa: E731
            slice(int(low * n), int(high * n)) for n in shape
        )
        found = convert.bfl.load(template(), tmp_path / "flux1.safetensors", wanted=part)
        same(found, jax.tree.map(lambda leaf, part=part: leaf[part((), leaf.shape)], weights))


def test_a_fused_tensor_of_wrong_height_is_named(weights, tmp_path):
    tensors = bfl_tensors(weights)
    tensors["double_blocks.1.img_attn.qkv.weight"] = np.ones((40, 16), np.float32)
    save_file(tensors, tmp_path / "flux1.safetensors")
    with pytest.raises(WeightsError, match=r"'double_blocks\.1\.img_attn\.qkv\.weight' has shape"):
        convert.bfl.load(template(), tmp_path / "flux1.safetensors")


def test_the_config_is_read_off_black_forest_labs_file(tmp_path):
    config = CONFIG | {
        "attention_head_dim": 128,
        "num_attention_heads": 1,
        "axes_dims_rope": [16, 56, 56],
        "guidance_embeds": False,
    }
    tensors = bfl_tensors(random_like(template(config | {"guidance_embeds": True})))
    without = {name: array for name, array in tensors.items() if "guidance" not in name}
    save_file(without, tmp_path / "flux1.safetensors")
    found = convert.bfl.read_config(tmp_path / "flux1.safetensors")
    assert found == config | {"out_channels": config["in_channels"]}
