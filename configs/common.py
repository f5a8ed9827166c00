"""What experiments share: variants, and every key of a config.

A variant is a model and, where its default isn't wanted, a preset: `tiny`, `flux-dev`,
`flux-schnell`, `tiny+paper`, `flux-dev+robust`.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import presets

# Model -> the preset it comes with.
MODELS = {"tiny": "robust", "flux-dev": "paper", "flux-schnell": "paper"}


def experiment(name: str, variant: str, *, word: str | None = None) -> ConfigDict:
    """A config with every key present; sentences and other words are made for the concept.

    Args:
      name: of the experiment; its run folder is called after it. `{word}` is what is erased.
      variant: model, or model+preset.
      word: what is erased; None leaves it to the command line.
    Raises:
      ValueError: an unknown model or preset.
    """
    model, plus, preset = (variant or "tiny").partition("+")
    if model not in MODELS:
        raise ValueError(
            f"variant {variant!r} is unknown; use one of {list(MODELS)}, or one of them with a "
            "preset, like tiny+paper"
        )
    config = _empty(name, variant or "tiny")
    for section, values in _model_sections(model).items():
        config[section].update(values)
    config.concept.word = word
    presets.apply(config, preset if plus else MODELS[model], model)
    if config.model.guidance is None:
        with config.ignore_type():
            config.loss.teacher_guidance = None
    return config


def _empty(name: str, variant: str) -> ConfigDict:
    """Every section; what the model, the words and the preset set is filled in afterwards."""
    return ConfigDict(
        {
            **{section: {} for section in presets.PAPER},
            "preset": "",
            "model": {"revision": placeholder(str), "guidance": placeholder(float)},
            # What is empty here is made for the word.
            "concept": {
                "word": placeholder(str),
                "words": placeholder(str),
                "kind": "auto",
                "sentences": (),
                "neutral": placeholder(str),
                "anchor_sentence": placeholder(str),
                "synonyms": (),
                "synonym_source": "auto",
                "sense": "first",
                "no_relation": (),
                "far": (),
                "mid": (),
                "irrelevant_source": "auto",
                "preserve_prompts": (),
                "endpoint": placeholder(str),
                "endpoint_model": placeholder(str),
                "endpoint_key": placeholder(str),
                "near_prompts": (),
            },
            "embedder": {"remains": placeholder(float)},
            "optim": {"seed": 0},
            "data": {"cache": ".cache/banks"},
            "sample": {"prompts": (), "seeds": (9001, 9002, 9003, 9004)},
            "log": {
                "folder": f"runs/{name}-{variant.replace('+', '-')}",
                "every": 10,
                "image_every": 100,
                "checkpoint_every": 50,
                "keep": 2,
                "pictures": "auto",
                "profile_steps": placeholder(str),
            },
            "mesh": {"data": 1, "fsdp": 1},
        }
    )


def _model_sections(model: str) -> dict[str, dict[str, Any]]:
    if model == "tiny":
        return {
            "model": {
                "path": "flux-tiny",
                "dtype": "float32",
                "resolution": 64,
                "text_length": 32,
                "guidance": 3.5,
                "attention": "auto",
                "remat": "none",
                "blocks": "unrolled",
            },
            "sample": {"steps": 28, "batch": 8, "eval_pictures": 50},
            "mesh": {"tensor": 1},
        }
    full = {
        "dtype": "bfloat16",
        "resolution": 512,
        "text_length": 256,
        "attention": "auto",
        "remat": "block",
        "blocks": "stacked",
    }
    # The judge knows flux-tiny's world only, so there is no table at the end.
    sample = {"batch": 1, "eval_pictures": 0}
    # At batch 1 it is `tensor` that helps: all devices there are.
    mesh = {"tensor": -1}
    if model == "flux-dev":
        path = "black-forest-labs/FLUX.1-dev"
        return {
            "model": {"path": path, "guidance": 3.5, **full},
            "sample": {"steps": 28, **sample},
            "mesh": mesh,
        }
    path = "black-forest-labs/FLUX.1-schnell"
    return {"model": {"path": path, **full}, "sample": {"steps": 4, **sample}, "mesh": mesh}
