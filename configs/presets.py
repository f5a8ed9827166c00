"""Presets: how EraseAnything is read, as overrides of a config's sections.

| preset | what it is |
|---|---|
| `paper` | what the paper's text means; the default at full size |
| `literal` | what the paper prints, equation by equation |
| `release` | what the authors' PyTorch code does |
| `robust` | anchor removed, synonyms, slips and inversions erased too, L_keep, and the closed |
|  | form of `embedder` in the end; flux-tiny's default |
| `esd` | another method: negative guidance alone (Gandikota 2023) |
| `ca_model`, `ca_noise` | another method: the concept's words learn an anchor's pictures |
|  | (Kumari 2023), as the model says of them, or as they are |
| `gem` | another method: pulled to an anchor's field, pushed off the concept's (Grebe 2026) |
| `eap` | another method: negative guidance, and the most harmed prompt is kept (Bui 2024) |
| `mace` | another method: the concept taken out of other words and out of attention, all fused |
|  | in one closed form (Lu 2024) |
| `meta_unlearning` | another method: negative guidance, such that a fine-tune on the concept's |
|  | pictures breaks what is near to it (Gao 2024) |
| `embedder` | another method: a closed form on the text's first layer |
| `uce` | another method: UCE (Gandikota 2024), the concept's inputs mapped to a guide's |
| `zeroed_columns` | no erasure: the word's attention columns zeroed while painting (section 3) |

A preset is chosen with the variant: `--config configs/nudity.py:tiny+paper`. Single values are
then still open to flags: `--config.loss.rsc=0`.
"""

from __future__ import annotations

from typing import Any

import ml_collections

Overrides = dict[str, dict[str, Any]]

# From the paper: pairs, lr_lower, lr_upper, AdamW, batch 1, eta, tau, irrelevant (its K), pictures
# (6 to 10). From its authors' code: rank, alpha, b1, b2, weight_decay. It states no weights of its
# losses and sums them plainly in Algorithm 1, as `literal` does; the weights and all other numbers
# are ours. docs/paper.md has the differences.
PAPER: Overrides = {
    "method": {"name": "erase_anything", "plus": "nothing"},
    "concept": {"erase": "word", "anchor": "empty", "max_tokens": 16},
    "lora": {"scope": "dual_qk", "rank": 8, "alpha": 8.0},
    "loss": {
        "esd": 1.0,
        "attn": 0.1,
        "lora": 0.1,
        "keep": 0.0,
        "rsc": 0.1,
        "eta": 1.0,
        "teacher": "base",
        "teacher_guidance": 3.5,
        "attn_form": "mass",
        "attn_blocks": "all",
        "attn_queries": "all",
        "rsc_form": "intent",
        "tau": 0.07,
        "features": "shared",
        "rsc_t_min": 0.7,
        "t_draw": "uniform",
    },
    # Chosen on flux-tiny's development concepts; see docs/results.md.
    "embedder": {
        "keep": 0.1,
        "growth": 2.0,
        "remains": None,
        "ridge": 0.1,
        "slips": 0.0,
        "inversions": 0.0,
        "vocabulary": "none",
        "captions": 2,
        "left_out": 0,
        "encoders": "t5",
        "rank": 32,
    },
    # lambda, erase and preserve of its authors; `rank` 0 is the whole change, as they save it.
    "uce": {
        "scope": "embed",
        "stay": 0.5,
        "erase": 1.0,
        "keep": 1.0,
        "times": 6,
        "templates": 8,
        "rank": 0,
    },
    # From the ranges of its authors.
    "esd": {"steps": 1000, "lr": 5e-5, "eta": 1.0},
    # Their papers' numbers, and of a range its end that learns most.
    "ca": {"steps": 1000, "lr": 1e-5, "pictures": 1000, "keep": 1.0},
    "gem": {
        "steps": 25,
        "lr": 1e-3,
        "share": 10 / 28,
        "eta": 1.0,
        "guidance": 1.0,
        "path_guidance": 3.0,
    },
    "eap": {
        "steps": 1000,
        "lr": 1e-4,
        "eta": 1.0,
        "words": 50,
        "temperature": 2.0,
        "searches": 2,
        "search_lr": 1e-2,
    },
    "mace": {
        "steps": 50,
        "lr": 1e-5,
        "keep": 0.1,
        "stay": 1e-3,
        "times": 6,
        "templates": 8,
        "level": 0.5,
        "threshold": 0.5,
        "rank": 0,
    },
    # Its paper's, but for what the method's own docstring calls ours.
    "meta_unlearning": {
        "steps": 1500,
        "lr": 1e-5,
        "eta": 1.0,
        "keep": 0.1,
        "related": 0.01,
        "harm_concept": 0.1,
        "harm_keep": 0.01,
        "harm_related": 0.1,
        "clip": 1.0,
        "relearn_steps": 2,
        "relearn_lr": 1e-3,
        "pictures": 64,
    },
    "optim": {
        "pairs": 1000,
        "optimisers": "two",
        "lr_lower": 1e-3,
        "lr_upper": 5e-4,
        "lr_decay": 0.0,
        "batch": 1,
        "lora_batch": 1,
        "keep_batch": 1,
        "rsc_batch": 1,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 1e-5,
    },
    "data": {
        "pool": 4,
        "x_t": "pool",
        "shuffle": "phrase",
        "shuffle_probability": 0.9,
        "prompts": "sentences",
        "shuffles": 32,
        "irrelevant": 3,
        "pictures": 8,
        "keep_pictures": 1,
        "slips": 0,
        "inversions": 0,
        "inversion_rounds": 2,
        "inversion_steps": 50,
        "inversion_rate": 0.5,
    },
}

# Their papers train the word by itself: what a sentence says besides would be erased with it.
_ALONE = {"prompts": "word", "shuffle_probability": 0.0}
# Each but `paper` is what it changes of it.
CHANGES: dict[str, Overrides] = {
    "paper": {},
    "literal": {
        "loss": {
            "attn": 1.0,
            "lora": 1.0,
            "rsc": 1.0,
            "attn_form": "sum",
            "rsc_form": "printed",
            "features": "denoise",
        },
        "data": {"x_t": "resample", "shuffle": "word", "shuffle_probability": 1.0},
    },
    "release": {
        "concept": {"anchor": "sentence"},
        "loss": {
            "attn": 0.001,
            "teacher": "student",
            "teacher_guidance": 3.0,
            "attn_form": "release",
            "attn_blocks": "last",
            "rsc_form": "release",
            "features": "denoise",
            "rsc_t_min": 0.0,
        },
        # Its 200 to 300 iterations are half-steps, one level each.
        "optim": {"pairs": 150, "optimisers": "one", "lr_upper": 1e-3},
        "data": {"x_t": "resample", "shuffle": "word"},
    },
    "robust": {
        "method": {"plus": "embedder"},
        # Slips take many tokens: the letters spaced, the word three times.
        "concept": {"anchor": "removed", "erase": "word_and_synonyms", "max_tokens": 32},
        "loss": {
            "attn": 0.1,
            "lora": 0.0,
            "keep": 1.0,
            "rsc": 0.0,
            "eta": 0.0,
            # Colour is decided at the highest noise levels, which a uniform draw seldom keeps.
            "t_draw": "sampler",
        },
        "optim": {
            "pairs": 200,
            "lr_lower": 2e-3,
            "lr_upper": 1e-3,
            "batch": 4,
            "keep_batch": 8,
        },
        "data": {"slips": 24, "inversions": 4},
        # Training has gone most of the way, so that keeping weighs more than in `embedder` alone.
        "embedder": {"keep": 1.0},
    },
    "esd": {
        "method": {"name": "esd"},
        "loss": {"teacher_guidance": 3.0},
        "data": _ALONE,
    },
    # Sentences in their own order: an anchor's picture is of its prompt.
    **{
        name: {
            "method": {"name": name},
            "concept": {"anchor": "replaced"},
            "data": {"shuffle_probability": 0.0},
        }
        for name in ("ca_model", "ca_noise")
    },
    # Its authors' own scope. A batch of 10, since they update once for ten places of a path.
    "gem": {
        "method": {"name": "gem"},
        "concept": {"anchor": "replaced"},
        "lora": {"scope": "dual_qk+image", "rank": 16, "alpha": 16.0},
        "optim": {"batch": 10},
        "data": {**_ALONE, "pool": 10},
    },
    "eap": {"method": {"name": "eap"}, "data": _ALONE},
    "mace": {
        "method": {"name": "mace"},
        # What a sentence's other words are mapped to.
        "concept": {"anchor": "replaced"},
        "lora": {"rank": 1, "alpha": 1.0},
        "data": {"shuffle_probability": 0.0},
    },
    "meta_unlearning": {
        "method": {"name": "meta_unlearning"},
        "concept": {"anchor": "replaced"},
        "optim": {"weight_decay": 1e-4},
        "data": _ALONE,
    },
    "embedder": {
        "method": {"name": "embedder"},
        "concept": {"erase": "word_and_synonyms"},
    },
    "uce": {
        "method": {"name": "uce"},
        # Its guide is what stands in the concept's place.
        "concept": {"erase": "word_and_synonyms", "anchor": "replaced"},
        "data": {"shuffle_probability": 0.0},
    },
    "zeroed_columns": {"method": {"name": "zeroed_columns"}},
}


# The same losses with other rates: what the paper chose for FLUX.1-dev takes everything along on
# flux-tiny. Chosen by `ea-jax evaluate sweep` on development words; see docs/results.md.
_PAPER_ON_TINY: Overrides = {"optim": {"pairs": 500, "lr_lower": 3e-4}}
_CA_ON_TINY: Overrides = {"ca": {"steps": 200, "lr": 1e-3, "pictures": 64}, "optim": {"batch": 4}}
# Learning rates, `gem.steps` and `uce.keep` are from sweeps on development words; other steps are
# not.
TINY: dict[str, Overrides] = {
    "paper": _PAPER_ON_TINY,
    "literal": _PAPER_ON_TINY,
    "esd": {"esd": {"steps": 200, "lr": 1e-3}, "optim": {"batch": 4}},
    "ca_model": _CA_ON_TINY,
    "ca_noise": _CA_ON_TINY,
    "gem": {"gem": {"steps": 80, "lr": 1e-3}, "lora": {"scope": "dual_qk"}},
    "eap": {"eap": {"steps": 200, "lr": 2e-3}, "optim": {"batch": 4}},
    "mace": {"mace": {"lr": 5e-3}, "optim": {"batch": 4}},
    "uce": {"uce": {"keep": 0.1}},
    # A step costs four of ESD's.
    "meta_unlearning": {
        "meta_unlearning": {"steps": 100, "lr": 1e-3, "pictures": 16},
        "optim": {"batch": 4},
    },
}


def apply(config: ml_collections.ConfigDict, preset: str, model: str) -> None:
    """Sets every key that presets are about; `config.preset` names the choice.

    Args:
      config: with all sections.
      preset: one of `CHANGES`.
      model: "tiny" or another; see `TINY`.
    Raises:
      ValueError: no such preset.
    """
    if preset not in CHANGES:
        raise ValueError(f"preset {preset!r} is unknown; use one of {list(CHANGES)}")
    tiny = TINY.get(preset, {}) if model == "tiny" else {}
    for overrides in (PAPER, CHANGES[preset], tiny):
        for section, values in overrides.items():
            for key, value in values.items():
                config[section][key] = value
    config.preset = preset
