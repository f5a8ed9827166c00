"""A config with a slip in it never starts: the error names key, value and way out."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import re
from typing import Any

import pytest
from absl import flags
from ml_collections import config_flags
from places import ROOT

from configs import nudity
from ea_jax import settings
from ea_jax.settings.fields import SettingsError


def config() -> dict[str, Any]:
    return nudity.get_config().to_dict()


KEYS = [
    (section, field.name)
    for section, kind in settings.SECTIONS.items()
    for field in dataclasses.fields(kind)
]


def test_every_value_of_a_config_arrives() -> None:
    found = dataclasses.asdict(settings.from_config(nudity.get_config()))
    assert found == config()


def test_settings_are_hashable() -> None:
    """They are static arguments of jitted steps."""
    made = [settings.from_config(nudity.get_config()) for _ in range(2)]
    assert hash(made[0]) == hash(made[1])


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_missing_key_is_named(section: str, key: str) -> None:
    short = config()
    del short[section][key]
    with pytest.raises(SettingsError, match=rf"^{section}\.{key} is missing"):
        settings.from_config(short)


@pytest.mark.parametrize(
    ("section", "key", "said"),
    [
        ("loss", "rcs", r"loss\.rcs is no key of a config; did you mean 'rsc'\?"),
        ("optim", "zzz", r"optim\.zzz is no key of a config; the keys are \['pairs'"),
    ],
)
def test_a_key_too_many_is_named(section: str, key: str, said: str) -> None:
    long = config()
    long[section][key] = 1
    with pytest.raises(SettingsError, match=said):
        settings.from_config(long)


def test_a_section_too_many_is_named() -> None:
    with pytest.raises(SettingsError, match=r"losses is no key of a config; did you mean 'loss'"):
        settings.from_config(config() | {"losses": {}})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.path", "", "model.path is empty; set it with --config.model.path=..."),
        ("model.dtype", "bf16", "use one of ['float32', 'bfloat16']; did you mean 'bfloat16'?"),
        (
            "model.attention",
            "chunk",
            "model.attention = 'chunk' is unknown; use one of ['auto', 'chunked'",
        ),
        ("uce.scope", "dual_kq", "use one of ['embed', 'dual_qk']; did you mean 'dual_qk'?"),
        ("uce.stay", 0.0, "uce.stay = 0.0 is out of range; it has to be above 0"),
        ("uce.rank", 2.0, "uce.rank = 2.0"),
        ("embedder.remains", 1.0, "embedder.remains = 1.0 is out of range; it has to be above 0"),
        ("embedder.vocabulary", " ", "embedder.vocabulary is empty"),
        ("embedder.encoders", "clip", "embedder.encoders = 'clip' is unknown; use one of ['t5',"),
        ("model.text_length", 513, "at least 2 and at most 512"),
        ("model.guidance", None, "both numbers, or both None"),
        ("concept.word", " ", "concept.word is empty"),
        ("concept.word", "", "concept.word is empty"),
        ("concept.word", None, "concept.words several, and neither is set; give one of them"),
        ("concept.words", "cat,dog", "concept.words several, and both are set; give one of them"),
        ("concept.kind", "thign", "did you mean 'thing'?"),
        ("concept.endpoint", "http://a", "needs concept.endpoint_model; set --config.concept.end"),
        ("concept.sentences", ("a", ""), "concept.sentences holds ''"),
        ("concept.anchor", "remove", "did you mean 'removed'?"),
        ("concept.synonym_source", "endpoint", "needs concept.endpoint; set --config.concept.end"),
        ("lora.rank", 0, "lora.rank = 0 is out of range; it has to be at least 1"),
        ("lora.rank", 1.5, "lora.rank = 1.5 is a float; it has to be a int"),
        ("loss.esd", -1.0, "loss.esd = -1.0 is out of range"),
        ("loss.esd", 0.0, "nothing erases"),
        ("loss.tau", 0.0, "it has to be above 0"),
        ("loss.tau", float("nan"), "out of range"),
        ("loss.attn_form", "Mass", "did you mean 'mass'?"),
        ("optim.lr_lower", "1e-3", "is a str; it has to be a int or float"),
        ("optim.pairs", True, "optim.pairs = True is a bool"),
        ("optim.optimisers", "one", "differ; one optimiser has one learning rate"),
        ("optim.batch", 3, "optim.batch = 3 doesn't divide data.pool = 4"),
        ("data.shuffle_probability", 1.1, "at least 0 and at most 1"),
        ("sample.seeds", (1, -1), "sample.seeds holds -1"),
        ("log.profile_steps", "12", "write first:last"),
        ("log.profile_steps", "12:10", "write first:last"),
        ("log.profile_steps", "1" * 5000 + ":2", "write first:last"),
        ("model.resolution", 10**9, "model.resolution = 1000000000 is out of range; it has to be"),
        ("model.path", "a\0b", "has a character that is no text"),
        ("concept.word", "?!", "concept.word = '?!' is only punctuation; it has to be a word"),
        ("concept.word", "nu\x07de", "concept.word = 'nu\\x07de' has a character that is no text"),
        (
            "concept.word",
            "w " * 200,
            "has 200 words, and at least as many tokens, more than concept.max_",
        ),
        ("concept.synonyms", ("NUDE ",), "'NUDE ', which is in concept.word already"),
        ("concept.synonyms", ("bare", "Bare"), "'Bare', which is in concept.synonyms already"),
        ("concept.mid", ("\ud800",), "concept.mid holds '\\ud800', which has a character that is"),
        ("lora.rank", 10**400, "lora.rank = 10000000000000000000000"),
        ("lora.alpha", 10**400, "lora.alpha = 10000000000"),
        ("loss.tau", 1e-50, "loss.tau = 1e-50 is 0 in float32; use at least 1.18e-38"),
        ("optim.b1", 1.0, "optim.b1 = 1.0 is out of range; it has to be at least 0 and below 1"),
        ("optim.b2", 1 - 1e-9, "below 1"),
        ("optim.eps", 1e-46, "optim.eps = 1e-46 is 0 in float32"),
        ("optim.seed", 2**31, "at least 0 and at most 2147483647"),
        ("data.shuffles", 10**9, "data.shuffles = 1000000000 is out of range; it has to be at"),
        ("sample.prompts", ("a cat", "a cat"), "sample.prompts holds 'a cat' twice"),
        ("sample.seeds", (1, 2, 1), "sample.seeds holds 1 twice"),
        ("sample.seeds", (True,), "sample.seeds holds True"),
        ("mesh.data", 0, "mesh.data = 0 is no size"),
    ],
)
def test_a_value_that_cannot_be_says_why(key: str, value: Any, said: str) -> None:
    wrong = config()
    section, name = key.split(".")
    wrong[section][name] = value
    if key == "loss.esd":
        wrong["loss"]["attn"] = 0.0
    with pytest.raises(SettingsError, match=re.escape(said)):
        settings.from_config(wrong)


def test_a_mesh_leaves_only_one_size_open() -> None:
    with pytest.raises(SettingsError, match=r"mesh\.data = -1 is no size; .* one may be -1"):
        settings.from_config(config() | {"mesh": {"data": -1, "fsdp": 1, "tensor": -1}})


@pytest.mark.parametrize("section", [None, 3, "loss", [1], []])
def test_a_section_that_is_none_is_named(section: Any) -> None:
    with pytest.raises(SettingsError, match=r"^loss = .* has to be a section with the keys \['esd"):
        settings.from_config(config() | {"loss": section})


def test_a_preset_is_a_name() -> None:
    with pytest.raises(SettingsError, match=r"^preset = None is no name"):
        settings.from_config(config() | {"preset": None})


def test_a_word_is_in_one_list() -> None:
    wrong = config()
    wrong["concept"] |= {"synonyms": ("naked",), "far": ("naked",)}
    with pytest.raises(SettingsError, match=r"'naked', which is in concept\.synonyms already"):
        settings.from_config(wrong)


def several(words: str, **concept: Any) -> settings.ConceptSettings:
    made = config()
    made["concept"] |= {"word": None, "words": words, **concept}
    return settings.from_config(made).concept


def test_several_words_stand_with_commas_between_them() -> None:
    concept = several(" golden  retriever, cat")
    assert (concept.named, concept.label) == (("golden retriever", "cat"), "golden retriever, cat")
    assert several("cat").named == ("cat",)
    assert settings.from_config(config()).concept.named == ("nude",)


@pytest.mark.parametrize(
    ("words", "concept", "said"),
    [
        ("cat,", {}, "concept.words is empty"),
        ("cat,?!", {}, "concept.words = '?!' is only punctuation"),
        ("cat,CAT", {}, "concept.words holds 'CAT', which is in concept.words already"),
        ("cat,dog", {"synonyms": ("hound",)}, "concept.synonyms belongs to one word, and concept."),
        ("cat,dog", {"sentences": ("a cat",)}, "leave it empty, and it is made for each"),
        ("cat,dog", {"neutral": "a fox"}, "concept.neutral belongs to one word"),
    ],
)
def test_words_that_cannot_be_say_why(words: str, concept: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        several(words, **concept)


def test_profiled_steps_are_a_range() -> None:
    made = settings.from_config(nudity.get_config())
    assert list(made.log.profiled()) == []
    assert list(dataclasses.replace(made.log, profile_steps="10:12").profiled()) == [10, 11]


def parsed(*arguments: str) -> settings.Settings:
    """What the command line of a program with a `--config` flag becomes."""
    values = flags.FlagValues()
    line = ["program", *arguments]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=line)
    values(line)
    return settings.from_config(values["config"].value)


def test_flags_change_single_values_and_lists() -> None:
    made = parsed(
        f"--config={ROOT}/configs/nudity.py:tiny+paper",
        "--config.loss.rsc=0",
        "--config.model.path=/models/FLUX",
        "--config.model.revision=main",
        "--config.sample.seeds=(1,2)",
        "--config.sample.prompts=('a nude man','a cat')",
        "--config.log.profile_steps=3:5",
    )
    assert made.preset == "paper"
    assert (made.loss.rsc, made.loss.lora) == (0.0, 0.1)
    assert (made.model.path, made.model.revision) == ("/models/FLUX", "main")
    assert made.sample.seeds == (1, 2)
    assert made.sample.prompts == ("a nude man", "a cat")
    assert made.log.profiled() == range(3, 5)


def test_a_flag_with_a_typo_is_refused_with_the_right_name() -> None:
    with pytest.raises(AttributeError, match=r"Did you mean.*rank"):
        parsed(f"--config={ROOT}/configs/nudity.py", "--config.lora.rnak=2")


def test_every_key_of_a_config_is_read() -> None:
    """Each field is an attribute that some code besides its declaration asks for."""
    files = [*(ROOT / "ea_jax").rglob("*.py"), ROOT / "train.py"]
    read = {
        node.attr
        for path in files
        if path.name not in ("settings.py", "concept_settings.py", "fields.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    # Read through something else: the range they make, and the mesh as a whole.
    through = {"profile_steps": "profiled", **dict.fromkeys(("data", "fsdp", "tensor"), "mesh")}
    unread = [f"{section}.{key}" for section, key in KEYS if through.get(key, key) not in read]
    assert not unread


@pytest.mark.parametrize(
    ("steps", "begins_late"), [(199, True), (200, True), (201, False), (0, True)]
)
def test_a_trace_begins_within_the_steps_of_the_method(steps: int, begins_late: bool) -> None:
    log = dataclasses.replace(
        settings.from_config(nudity.get_config()).log, profile_steps="200:201"
    )
    expected = (
        pytest.raises(
            SettingsError, match=f"'200:201' begins after the last .* {steps} steps; begin"
        )
        if begins_late
        else contextlib.nullcontext()
    )
    with expected:
        log.require_within(steps)
    dataclasses.replace(log, profile_steps=None).require_within(0)
