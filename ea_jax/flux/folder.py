"""What a pipeline's folder says of its parts, each checked by itself and against the others."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import convert.bfl
import convert.diffusers
from convert import WeightsError
from convert.disk import entry
from ea_jax.flux import clip, latents, t5, tokens, vae
from ea_jax.flux.schedule import Schedule
from ea_jax.flux.transformer_config import TransformerConfig

# Other pipelines of the same family, for what they are.
_OTHERS = {
    "FluxKontextPipeline": "Kontext, which edits pictures",
    "FluxFillPipeline": "Fill, which fills in parts of pictures",
    "FluxControlPipeline": "Canny or Depth, which follow a picture",
    "FluxPriorReduxPipeline": "Redux, which varies pictures",
    "FluxControlNetPipeline": "FLUX with a ControlNet",
    "Flux2Pipeline": "FLUX.2, another model",
    "ChromaPipeline": "Chroma, another model",
}
_PARTS = {
    "feature_extractor",
    "image_encoder",
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "transformer",
    "vae",
}
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Described:
    """Configs and tokenizers of a pipeline.

    Attributes:
      transformer, clip, t5, vae: shapes of the parts.
      schedule: noise levels.
      clip_tokenizer, t5_tokenizer: of transformers.
      side: of a picture in pixels, where nobody says another.
    """

    transformer: TransformerConfig
    clip: clip.ClipConfig
    t5: t5.T5Config
    vae: vae.VaeConfig
    schedule: Schedule
    clip_tokenizer: Any
    t5_tokenizer: Any
    side: int


def read(folder: Path, transformer_file: str | Path | None = None) -> Described:
    """Reads configs and tokenizers, no weights.

    Args:
      folder: in diffusers' layout.
      transformer_file: the transformer in a single file; its shape is read off it where the
        folder has no config of a transformer.
    Raises:
      ValueError: a file that is absent or damaged, a value that is not supported, or parts that
        don't belong together; names the file.
    """
    _check_index(folder)

    def config(part: str, kind: Any) -> Any:
        where = folder / part / "config.json"
        return kind.from_json(convert.diffusers.read_config(folder, part), where)

    if transformer_file is None or (folder / "transformer" / "config.json").exists():
        transformer = config("transformer", TransformerConfig)
    else:
        transformer = TransformerConfig.from_json(
            convert.bfl.read_config(transformer_file), transformer_file
        )
    schedule = folder / "scheduler" / "scheduler_config.json"
    described = Described(
        transformer=transformer,
        clip=config("text_encoder", clip.ClipConfig),
        t5=config("text_encoder_2", t5.T5Config),
        vae=config("vae", vae.VaeConfig),
        schedule=Schedule.from_json(convert.diffusers.read_json(schedule), schedule),
        side=_side(folder),
        clip_tokenizer=tokens.load_tokenizer(folder, "tokenizer"),
        t5_tokenizer=tokens.load_tokenizer(folder, "tokenizer_2"),
    )
    _check_relations(folder, described)
    return described


def _check_index(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.exists():
        raise WeightsError(
            f"{folder} holds no model_index.json; give the folder of a FLUX.1 pipeline in "
            "diffusers' layout; its transformer may also be a single file beside model_index.json, "
            "where the subfolder transformer holds no weights"
        )
    fields = convert.diffusers.read_json(index)
    name = fields.get("_class_name")
    if name != "FluxPipeline":
        what = f" ({_OTHERS[name]})" if isinstance(name, str) and name in _OTHERS else ""
        raise WeightsError(
            f"{index} describes a {name}{what}, not a FluxPipeline; give the folder of a FLUX.1 "
            "pipeline"
        )
    unknown = [
        key
        for key, value in fields.items()
        if key not in _PARTS and not key.startswith("_") and value not in (None, [None, None])
    ]
    if unknown:
        _log.warning("%s: parts that are unknown and not read: %s", index, ", ".join(unknown))


def _side(folder: Path) -> int:
    where = folder / "vae" / "config.json"
    fields = convert.diffusers.read_config(folder, "vae")
    if fields.get("sample_size") is None:
        return 1024
    options: dict[str, Any] = {"way_out": "give a side in pixels", "error": WeightsError}
    side = entry(fields, "sample_size", int, where=where, **options)
    if side < 1:
        raise WeightsError(f"{where}: sample_size={side} has to be at least 1")
    return side


def _check_relations(folder: Path, parts: Described) -> None:
    """Raises where parts state different widths, or a tokenizer has words unknown to its part."""
    transformer = parts.transformer
    packed = parts.vae.latent_channels * latents.PATCH**2
    for key, value, other, needed in (
        ("in_channels", transformer.in_channels, "vae: latent_channels, packed", packed),
        (
            "joint_attention_dim",
            transformer.joint_attention_dim,
            "text_encoder_2: d_model",
            parts.t5.d_model,
        ),
        (
            "pooled_projection_dim",
            transformer.pooled_projection_dim,
            "text_encoder: hidden_size",
            parts.clip.hidden_size,
        ),
    ):
        if value != needed:
            raise WeightsError(
                f"{folder}: the transformer's {key}={value} doesn't fit {needed} "
                f"({other}); give the folder of one FLUX.1 pipeline, with all of its parts"
            )
    for name, tokenizer, part, vocab_size in (
        ("tokenizer", parts.clip_tokenizer, "text_encoder", parts.clip.vocab_size),
        ("tokenizer_2", parts.t5_tokenizer, "text_encoder_2", parts.t5.vocab_size),
    ):
        # Tokens added later, as T5's extra ones, stand in no usual prompt.
        if tokenizer.vocab_size > vocab_size:
            raise WeightsError(
                f"{folder / part / 'config.json'}: vocab_size={vocab_size} is less than the "
                f"{tokenizer.vocab_size} tokens of {folder / name}; both must be of the same "
                "pipeline"
            )
    end = parts.clip.eos_token_id
    if end not in (clip.LARGEST_ID, parts.clip_tokenizer.eos_token_id):
        raise WeightsError(
            f"{folder / 'text_encoder/config.json'}: eos_token_id={end} is not the end token "
            f"{parts.clip_tokenizer.eos_token_id} of {folder / 'tokenizer'}; both must be of the "
            "same pipeline"
        )
