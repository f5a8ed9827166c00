"""What a LoRA file and PEFT's settings say of alpha: what can't be used is named."""

from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest
from toy_lora import pair, written

from convert import WeightsError, files
from ea_jax import edits
from ea_jax.edits import Edit

Q = "transformer_blocks.0.attn.add_q_proj"
SETTINGS = {
    "text for a number": ({"lora_alpha": "4"}, r"'lora_alpha' is text \(\"4\"\), not a number"),
    "null for a number": ({"lora_alpha": None}, "'lora_alpha' is null, not a number"),
    "no alpha": ({"r": 4}, "lacks 'lora_alpha'"),
    "alpha NaN": ({"lora_alpha": float("nan")}, "'lora_alpha' is nan; it has to be finite"),
    "alpha Inf": ({"lora_alpha": float("inf")}, "'lora_alpha' is inf; it has to be finite"),
    "alpha too large": ({"lora_alpha": 10**400}, "'lora_alpha' is too large; it has to be finite"),
    "rank null": ({"lora_alpha": 4, "r": None}, "'r' is null, not a whole number"),
    "rank 0": ({"lora_alpha": 4, "r": 0}, "'r' is 0, and a rank is at least 1"),
    "a list of patterns": (
        {"lora_alpha": 4, "alpha_pattern": ["x"]},
        r"'alpha_pattern' is a list .* not an object",
    ),
    "a bad pattern": (
        {"lora_alpha": 4, "alpha_pattern": {"to_(q": 4}},
        r"'alpha_pattern': 'to_\(q' is no regular expression",
    ),
    "a pattern with text": (
        {"lora_alpha": 4, "alpha_pattern": {"to_q": "4"}},
        "'alpha_pattern': 'to_q' is text",
    ),
    "a pattern with NaN": (
        {"lora_alpha": 4, "alpha_pattern": {"to_q": float("nan")}},
        "'alpha_pattern': 'to_q' is nan; it has to be finite",
    ),
    "text for a switch": ({"lora_alpha": 4, "use_rslora": "no"}, "'use_rslora' is text"),
    "dora": ({"lora_alpha": 4, "use_dora": True}, "says that it is a DoRA; fuse it"),
    "biases": ({"lora_alpha": 4, "lora_bias": True}, "says that it has biases; export it without"),
    "a list": ([1], r"holds a list \(\[1\]\), not an object"),
    "alpha 0": ({"lora_alpha": 0}, "alpha of 0 for every layer and changes nothing"),
}


@pytest.mark.parametrize("where", ["metadata", "beside"])
@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_cannot_be_used_are_named(tmp_path, case, where):
    fields, message = SETTINGS[case]
    text = json.dumps(fields)
    if where == "metadata":
        path = written(tmp_path, pair(Q), {"lora_adapter_metadata": text})
        name = f"lora_adapter_metadata in {path}"
    else:
        path = written(tmp_path, pair(Q, prefix="base_model.model."))
        (tmp_path / "adapter_config.json").write_text(text)
        name = str(tmp_path / "adapter_config.json")
    with pytest.raises(WeightsError, match=message) as told:
        edits.load(path)
    assert (str(path) if case == "alpha 0" else name) in str(told.value)
    assert "\n" not in str(told.value)


def test_an_alpha_of_0_for_one_layer_leaves_that_layer_out(tmp_path):
    """As in diffusers; 0 for every layer is a LoRA that does nothing, which is an error."""
    arrays = pair(Q) | pair("context_embedder", 4, 12, width_out=16)
    zero = {f"transformer.{Q}.alpha": np.zeros((), np.float32)}
    edit = edits.load(written(tmp_path, arrays | zero))
    assert not edit.changes()["transformer_blocks", "attn", "add_q_proj"].any()
    assert edit.changes()[("context_embedder",)].any()
    with pytest.raises(WeightsError, match="alpha of 0 for every layer and changes nothing"):
        edits.load(written(tmp_path, pair(Q) | zero))


def test_layers_of_several_ranks_are_read_as_they_were_written(tmp_path):
    """An outer layer's name is the end of an inner one's."""
    ones = lambda *shape: np.ones(shape, np.float32)  # noqa: E731
    adapters = {
        "proj_out": {"A": ones(3, 2), "B": ones(2, 5)},
        "single_transformer_blocks": {"proj_out": {"A": ones(2, 6, 4), "B": ones(2, 4, 5)}},
    }
    edits.save(Edit(adapters), tmp_path)
    stored, metadata = files.header(tmp_path / edits.LORA_FILE)
    said = json.loads(metadata["lora_adapter_metadata"])
    assert (said["transformer.r"], said["transformer.lora_alpha"]) == (4, 4)
    assert said["transformer.alpha_pattern"] == said["transformer.rank_pattern"]
    # As PEFT looks a layer up.
    for name in {key.removeprefix("transformer.").rpartition(".lora_")[0] for key in stored}:
        named = [
            rank
            for key, rank in said["transformer.rank_pattern"].items()
            if re.match(rf"(.*\.)?({key})$", name)
        ]
        assert named == ([2] if name == "proj_out" else [])
    jax.tree.map(np.testing.assert_array_equal, edits.load(tmp_path).adapters, adapters)
