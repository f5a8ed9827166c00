"""Table 3 by CLIP: what is asked of a concept, and a whole task on a small random pipeline."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from types import SimpleNamespace as Namespace

import pytest
import random_clip

from ea_jax.concepts import choose, rows
from ea_jax.detectors.class_sets import ENTITY
from ea_jax.erase import WORDS
from ea_jax.evaluate import metrics
from ea_jax.exam import clip_concepts, concepts, model, record, trials
from ea_jax.runtime.run_folder import write_json


def test_a_concept_is_asked_among_the_ten_of_its_category():
    task = clip_concepts.task_of("Cat", ENTITY, 3, ["kitty", "puss"])
    asked = Counter(probe.questions[0][0] for probe in task.probes)
    assert asked == {"Acc_e": 3, "Acc_g": 3, "Acc_ir": 9}
    prompts = {
        metric: [p.prompt for p in task.probes if p.questions[0][0] == metric] for metric in asked
    }
    assert prompts["Acc_e"] == ["A photo of Cat"] * 3
    assert prompts["Acc_g"] == ["A photo of kitty", "A photo of puss", "A photo of kitty"]
    assert "A photo of Cat" not in prompts["Acc_ir"]
    assert len({probe.seed for probe in task.probes}) == len(task.probes)
    synonym = next(p for p in task.probes if p.questions[0][0] == metrics.SYNONYMS.name)
    assert synonym.questions[0][1] == {("entity", "Cat")}


def test_a_word_that_table_6_has_not_is_named():
    with pytest.raises(ValueError, match="'Horse' is no concept of Table 6, which has Fruit"):
        clip_concepts.class_set("Horse")


def test_a_word_that_may_be_a_thing_is_erased_as_its_category_says(tmp_path, dev_folder):
    given = argparse.Namespace(
        model=str(dev_folder), out=tmp_path, seeds=[0], pictures=2, cache=str(tmp_path)
    )
    [made] = trials.trials_of(given, {"": ("", {})}, ["Burrow"], of_word=clip_concepts.settings_of)
    assert made.config["concept"]["kind"] == "relation"
    assert clip_concepts.settings_of("Shoes") == {}


def test_all_methods_are_asked_the_synonyms_that_none_was_trained_on(
    tmp_path, dev_folder, monkeypatch
):
    """Of the package's list "kitty" is the one that a run takes."""
    given = argparse.Namespace(
        **{"model": str(dev_folder), "out": tmp_path, "seeds": [0], "pictures": 2, "tensor": 1},
        **{"cache": str(tmp_path), "clip": "none"},
    )
    methods = {name: (name, {}) for name in ("paper", "esd")}
    runs = trials.trials_of(given, methods, ["Cat"])
    for run, trained in zip(runs, (("kitty",), ()), strict=True):
        concept = rows.Concept("Cat", ("a Cat",), synonyms=trained)
        words = choose.Words((concept,), preserve=(), near=(), shown=(), record={})
        run.folder.mkdir(parents=True)
        write_json(run.folder / WORDS, words.as_json())
    asked = []

    def measured(painter, edit, task, detector, *, cache):
        asked.append((task.held_out, [probe.prompt for probe in task.probes]))
        return Namespace(base={}, erased={})

    nothing = lambda *_: None  # noqa: E731
    for module, name, fake in (
        (clip_concepts.Clip, "load", nothing),
        (clip_concepts, "ZeroShot", lambda *_: Namespace(name="CLIP", version="1")),
        (clip_concepts, "measure", measured),
        (trials, "make", nothing),
        (record, "protocol_of", lambda *_: {}),
        *((model, name, nothing) for name in ("require_sampling", "open_painter", "edit_of")),
    ):
        monkeypatch.setattr(module, name, fake)
    clip_concepts.run(given, runs)
    assert asked[0] == asked[1]
    assert "feline" in asked[0][0]
    assert "kitty" not in asked[0][0]


def test_another_revision_than_the_one_that_is_measured_is_refused(tmp_path, dev_folder):
    clip = random_clip.save(random_clip.build(), tmp_path / "clip")
    flags = [f"--model={dev_folder}", f"--clip={clip}", f"--out={tmp_path / 'out'}", "--words=Cat"]
    with pytest.raises(SystemExit, match=r"model\.revision = 'old', and --clip measures"):
        concepts.main([*flags, "--set=model.revision=old"])
    assert not list(tmp_path.glob("out/runs/*"))


def test_a_flux_without_a_judge_is_measured_by_clip(tmp_path, dev_folder, capsys):
    clip = random_clip.save(random_clip.build(), tmp_path / "clip")
    flags = [
        *(f"--model={dev_folder}", f"--clip={clip}", f"--out={tmp_path / 'out'}"),
        *(f"--cache={tmp_path / 'cache'}", "--words=Cat", "--pictures=2"),
        "--method=embedder,zeroed_columns",
    ]
    for changed in (
        *("model.resolution=32", "model.text_length=64", "model.dtype=float32", "mesh.tensor=1"),
        *("sample.steps=1", "sample.batch=4", "log.pictures=none"),
    ):
        flags.append(f"--set={changed}")
    concepts.main(flags)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(row["row"], row["word"], row["category"]) for row in found["rows"]] == [
        (method, "Cat", "entity") for method in ("embedder", "zeroed_columns")
    ]
    for row in found["rows"]:
        assert row["erased"]["Acc_ir"]["total"] == 9
        assert row["how"]["classes"] == list(ENTITY.labels)
        assert [f"A photo of {row['word']}", clip_concepts.SEEDS] in row["how"]["prompts"]
    assert "| entity | Cat |" in capsys.readouterr().out
