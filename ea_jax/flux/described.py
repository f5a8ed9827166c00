"""What a JSON file says of a model: every key is used, known to be harmless, or refused."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from ea_jax.settings.fields import number

T = TypeVar("T")

# Keys of any config that transformers saved; none of them changes what an encoder computes.
TRANSFORMERS = frozenset(
    {
        "add_cross_attention",
        "architectures",
        "attention_dropout",
        "attn_implementation",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dropout",
        "dropout_rate",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "initializer_factor",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "model_type",
        "n_positions",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_decoder_layers",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "output_scores",
        "pad_token_id",
        "prefix",
        "problem_type",
        "projection_dim",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "scale_decoder_outputs",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tie_word_embeddings",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "typical_p",
        "use_bfloat16",
        "use_cache",
    }
)
# Refused in every file: values with which a key says nothing.
_FIXED: dict[str, tuple[Any, ...]] = {"quantization_config": (None,), "pruned_heads": (None, {})}
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Rules:
    """Keys of a JSON file that no field of its dataclass holds.

    Attributes:
      fixed: key -> values that say what is implemented, FLUX's own first; any other is refused.
      harmless: keys that don't change a picture.
      required: fields that have a default, but not in a file.
      model: whose values `fixed` holds.
    """

    fixed: Mapping[str, tuple[Any, ...]]
    harmless: Collection[str] = ()
    required: Collection[str] = ()
    model: str = "FLUX"


def width(default: int) -> Any:
    """A field for a width: a whole number from 1 on."""
    return number(int, low=1, high=1 << 20, default=default)


def layers(default: int) -> Any:
    """A field for a number of layers."""
    return number(int, low=1, high=1000, default=default)


def read(config: Mapping[str, Any], kind: type[T], rules: Rules, where: str | Path) -> T:
    """Makes a dataclass of a JSON object; lists become tuples.

    Keys that nobody knows are logged, unless they are null; those that start with `_` are
    diffusers' and transformers' own.

    Args:
      config: the object.
      kind: dataclass, with a default where the key may be absent.
      rules: for the keys that are no field of it.
      where: the file, for messages.
    Raises:
      ValueError: a missing key, a value that is not implemented, or one that `kind` refuses.
    """
    fields = {field.name: field for field in dataclasses.fields(cast(Any, kind))}
    missing = [
        name
        for name, field in fields.items()
        if name not in config and (field.default is dataclasses.MISSING or name in rules.required)
    ]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; download it again")
    fixed, unknown = {**_FIXED, **rules.fixed}, []
    for key, value in config.items():
        if key in fixed:
            if not any(type(value) is type(one) and value == one for one in fixed[key]):
                raise ValueError(
                    f"{where}: {key}={value!r} is not supported; {rules.model} has "
                    f"{fixed[key][0]!r}"
                )
        elif key not in fields and key not in rules.harmless and not key.startswith("_"):
            unknown += [key] if value is not None else []
    if unknown:
        _log.warning("%s: keys that are unknown and not read: %s", where, ", ".join(unknown))
    found = {name: config[name] for name in fields if name in config}
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
