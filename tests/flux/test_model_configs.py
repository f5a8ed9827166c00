"""Every key of a model's JSON is used, known to be harmless, or refused with its name."""

from __future__ import annotations

import json
import logging
import shutil
from importlib import resources
from pathlib import Path

import pytest

from ea_jax.flux.clip import ClipConfig
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.schedule import Schedule
from ea_jax.flux.t5 import T5Config
from ea_jax.flux.transformer import TransformerConfig
from ea_jax.flux.vae import VaeConfig

# As FLUX.1's repositories and the libraries' save_pretrained have them.
TRANSFORMER = {
    "_class_name": "FluxTransformer2DModel",
    "_diffusers_version": "0.34.0",
    "_name_or_path": "x",
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "guidance_embeds": True,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "out_channels": None,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}
CLIP = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.3",
    "vocab_size": 49408,
}
T5 = {
    "architectures": ["T5EncoderModel"],
    "classifier_dropout": 0.0,
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.3",
    "use_cache": True,
    "vocab_size": 32128,
}
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "invert_sigmas": False,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
ALL = {
    TransformerConfig: TRANSFORMER,
    VaeConfig: VAE,
    ClipConfig: CLIP,
    T5Config: T5,
    Schedule: SCHEDULER,
}


@pytest.mark.parametrize(("kind", "config"), ALL.items())
def test_a_config_of_flux_is_read_without_a_word(kind, config, caplog):
    assert kind.from_json(config) == kind.from_json({**config, "new": None})
    assert not caplog.records


@pytest.mark.parametrize(("kind", "config"), ALL.items())
def test_a_key_that_nobody_knows_is_logged(kind, config, caplog):
    with caplog.at_level(logging.WARNING):
        kind.from_json({**config, "zoom": 2}, "a/config.json")
    (record,) = caplog.records
    assert record.getMessage() == "a/config.json: keys that are unknown and not read: zoom"


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        (TransformerConfig, {"patch_size": 2}, "patch_size=2 is not supported; FLUX has 1"),
        (TransformerConfig, {"quantization_config": {"a": 1}}, "quantization_config="),
        (TransformerConfig, {"out_channels": 16}, "in_channels=64 and out_channels=16"),
        (TransformerConfig, {"guidance_embeds": "true"}, "has to be true or false"),
        (TransformerConfig, {"guidance_embeds": None}, "has to be true or false"),
        (TransformerConfig, {"num_layers": "19"}, "num_layers = '19' is a str"),
        (TransformerConfig, {"num_layers": 0}, "num_layers = 0 is out of range"),
        (TransformerConfig, {"num_layers": 10**9}, "num_layers = 1000000000 is out of range"),
        (TransformerConfig, {"in_channels": True}, "in_channels = True is a bool"),
        (TransformerConfig, {"axes_dims_rope": [15, 57, 56]}, "must be three even widths"),
        (TransformerConfig, {"axes_dims_rope": [16, 56]}, "has 2 items"),
        (TransformerConfig, {"axes_dims_rope": [16, 56, "56"]}, "holds '56'"),
        (VaeConfig, {"scaling_factor": 0}, "scaling_factor = 0 is out of range"),
        (VaeConfig, {"shift_factor": float("nan")}, "shift_factor = nan is out of range"),
        (VaeConfig, {"latents_mean": [0.1]}, "latents_mean="),
        (VaeConfig, {"norm_num_groups": 48}, "must be multiples of norm_num_groups=48"),
        (VaeConfig, {"in_channels": 4}, "in_channels=4 is not supported; FLUX has 3"),
        (VaeConfig, {"down_block_types": ["DownEncoderBlock2D"] * 3}, "down_block_types="),
        (VaeConfig, {"use_quant_conv": None}, "use_quant_conv"),
        (ClipConfig, {"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        (ClipConfig, {"max_position_embeddings": 248}, "max_position_embeddings=248"),
        (ClipConfig, {"num_attention_heads": 7}, "multiple of num_attention_heads=7"),
        (ClipConfig, {"eos_token_id": 49408}, "must be less than vocab_size=49408"),
        (ClipConfig, {"layer_norm_eps": None}, "layer_norm_eps = None"),
        (T5Config, {"feed_forward_proj": "relu"}, "feed_forward_proj='relu'"),
        (T5Config, {"is_gated_act": False}, "is_gated_act=False"),
        (T5Config, {"relative_attention_num_buckets": 2}, "num_buckets = 2 is out of range"),
        (T5Config, {"relative_attention_max_distance": 8}, "must be more than a quarter"),
        (Schedule, {"shift": None}, "shift = None"),
        (Schedule, {"shift": 0}, "shift = 0 is out of range"),
        (Schedule, {"num_train_timesteps": 500}, "num_train_timesteps=500"),
        (Schedule, {"max_image_seq_len": 256}, "must be more than base_image_seq_len=256"),
        (Schedule, {"use_dynamic_shifting": "yes"}, "has to be true or false"),
        (Schedule, {"shift_terminal": 0.02}, "shift_terminal=0.02 is not supported"),
    ],
)
def test_what_would_change_a_picture_is_refused_with_file_and_key(kind, change, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        kind.from_json({**ALL[kind], **change}, "model/config.json")
    assert str(caught.value).startswith("model/config.json: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (TransformerConfig, "num_layers"),
        (VaeConfig, "shift_factor"),
        # transformers would take 8 heads, and every shape would fit all the same.
        (ClipConfig, "num_attention_heads"),
        (T5Config, "d_model"),
    ],
)
def test_a_key_that_decides_a_shape_has_to_be_there(kind, key):
    less = {name: value for name, value in ALL[kind].items() if name != key}
    with pytest.raises(ValueError, match=f"c.json lacks {key}"):
        kind.from_json(less, "c.json")


def test_a_base_shift_of_zero_is_zero():
    assert Schedule.from_json({**SCHEDULER, "base_shift": 0}).mu(256) == 0


def test_a_shift_beyond_float32_is_an_error_not_an_overflow():
    steep = Schedule.from_json({**SCHEDULER, "max_image_seq_len": 257})
    with pytest.raises(ValueError, match="shift at 4096 image tokens is e"):
        steep.sigmas(4, 4096)


@pytest.fixture
def tiny(tmp_path):
    """A copy of flux-tiny to spoil."""
    ignored = shutil.ignore_patterns("judge")
    with resources.as_file(resources.files("ea_jax") / "assets" / "flux-tiny") as folder:
        return Path(shutil.copytree(folder, tmp_path / "model", ignore=ignored))


def edit(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("text_encoder_2", {"d_model": 64}, "joint_attention_dim=128 doesn't fit 64"),
        ("text_encoder", {"hidden_size": 64}, "pooled_projection_dim=128 doesn't fit 64"),
        ("vae", {"latent_channels": 4}, "in_channels=64 doesn't fit 16"),
        ("text_encoder_2", {"vocab_size": 900}, "vocab_size=900 is less than the "),
        ("text_encoder", {"eos_token_id": 7}, "eos_token_id=7 is not the end token 1513"),
        ("vae", {"sample_size": [64, 64]}, "'sample_size' is a list"),
        ("vae", {"sample_size": 0}, "sample_size=0 has to be at least 1"),
    ],
)
def test_parts_that_don_t_fit_each_other_are_named_before_weights_are_read(
    tiny, file, change, said
):
    edit(tiny / file / "config.json", **change)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Pipeline(tiny)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("FluxKontextPipeline", "FluxKontextPipeline (Kontext, which edits pictures)"),
        ("FluxFillPipeline", "FluxFillPipeline (Fill, "),
        (["FluxPipeline"], "describes a ['FluxPipeline']"),
    ],
)
def test_another_pipeline_is_named_for_what_it_is(tiny, name, said):
    edit(tiny / "model_index.json", _class_name=name)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Pipeline(tiny)
    assert said in str(caught.value)


def test_empty_parts_of_an_index_are_harmless_and_full_ones_are_logged(tiny, caplog):
    edit(tiny / "model_index.json", image_encoder=[None, None], controlnet=["diffusers", "X"])
    with caplog.at_level(logging.WARNING):
        Pipeline(tiny)
    (record,) = caplog.records
    assert record.getMessage().endswith("parts that are unknown and not read: controlnet")


def test_a_special_token_beyond_the_vocabulary_is_an_error(tiny):
    (tiny / "tokenizer_2" / "tokenizer_config.json").unlink()  # 100 extra tokens by default
    pipeline = Pipeline.load(tiny, parts=["text_encoder", "text_encoder_2"])
    with pytest.raises(ValueError, match="the text encoder knows 1034"):
        pipeline.encode(["<extra_id_99>"])
