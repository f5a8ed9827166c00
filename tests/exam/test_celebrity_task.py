"""Who is still recognised: who is asked for, what is counted, and the task from end to end."""

from __future__ import annotations

import argparse
import json

import jax
import numpy as np
import pytest
import toy_weights
from PIL import Image

from ea_jax import edits, lora
from ea_jax.concepts import forms
from ea_jax.detectors import mobilenet, train_celebrity
from ea_jax.detectors.train_celebrity import Training
from ea_jax.edits import Edit
from ea_jax.evaluate import worlds
from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.probes import Probe, Reading, check_held_out
from ea_jax.evaluate.task import People
from ea_jax.exam import (
    celebrity,
    celebrity_classifier,
    celebrity_counts,
    model,
    portraits,
    trials,
)
from ea_jax.exam.celebrity_counts import CLASSIFIER, JUDGE, Erasure
from ea_jax.exam.model import Subject
from ea_jax.flux import hub
from ea_jax.flux.pipeline import Pipeline

TINY = hub.EMBEDDED


@pytest.fixture
def shallow(monkeypatch):
    """Two blocks of the classifier's sixteen, and one epoch."""
    monkeypatch.setattr(mobilenet, "_CHANNELS", (16, 24, 24))
    monkeypatch.setattr(mobilenet, "_STRIDES", (2, 1))
    monkeypatch.setattr(portraits, "FROM_RANDOM", Training(epochs=1, batch=4))
    mobilenet._graphs.cache_clear()
    yield
    mobilenet._graphs.cache_clear()


def save_edit(folder, concept, seed=0):
    fresh = lora.init(
        *(jax.random.key(0), Pipeline(TINY).template("transformer")), scope="dual_qk", rank=2
    )
    edits.save(Edit(toy_weights.random_like(fresh, seed=seed), concept=concept), folder)
    return str(folder)


def test_ten_characters_are_erased_and_ten_kept_and_no_setting_was_chosen_on_them():
    people = worlds.people_of(TINY)
    assert len(people.erased) == len(people.kept) == 10
    both = {*people.erased, *people.kept}
    assert len(both) == 20
    assert not both & {*worlds.classes_of(TINY).development}
    # An erasure's own prompts to keep have none of those that are asked to stay.
    kept = worlds.of_model(TINY).phrases.preserve(())
    assert not any(forms.mentions(text, name) for text in kept for name in people.kept)


def test_a_flux_is_asked_for_the_names_of_table_7(dev_folder):
    people = worlds.people_of(str(dev_folder))
    assert (len(people.erased), len(people.kept)) == (50, 50)
    assert len({*people.erased, *people.kept}) == 100
    assert (people.erased[0], people.kept[-1]) == ("Adele", "Wonderwoman")


@pytest.mark.parametrize("world", ["flux-tiny", "flux"])
def test_a_classifier_never_sees_a_prompt_or_a_seed_of_the_evaluation(world, dev_folder):
    path = TINY if world == "flux-tiny" else str(dev_folder)
    names = worlds.people_of(path).erased[:3]
    probes, judge = celebrity.probes_of(path, names, 12)
    assert (judge is None) == (world == "flux")
    made = portraits.prompts_of(worlds.of_model(path), names, 20)
    asked = [probe for one in probes.values() for probe in one]
    assert len({(one.prompt, one.seed) for one in asked}) == 3 * 12
    check_held_out(asked, [prompt for prompts in made.values() for prompt in prompts])
    trained = {portraits._seed(made, n, i) for n in range(3) for i in range(20)}
    assert len(trained) == 60
    assert not trained & {one.seed for one in asked}
    assert all(forms.mentions(prompt, name) for name in names for prompt in made[name])


def question(name, seed=0):
    return Probe(
        f"this is {name}",
        seed,
        (
            (CLASSIFIER.name, frozenset({("celebrity", name)})),
            (JUDGE.name, frozenset({("object", name)})),
        ),
    )


def seen(*pairs, valid=True):
    return Reading(frozenset(pairs), valid)


def test_erased_and_kept_names_are_counted_apart_on_the_same_pictures():
    own = question("Pierrot"), question("Pierrot", 1)
    kept = question("Oberon"), question("Zorg")
    one = Erasure(Subject("without"), ("Pierrot",), own, kept, frozenset({"Zorg"}))
    right = {p: seen(*(pair for _, answers in p.questions for pair in answers)) for p in own + kept}
    after = {
        own[0]: seen(("celebrity", "Oberon")),
        # What is no picture shows nothing, whoever it is taken for.
        own[1]: seen(("celebrity", "Pierrot"), valid=False),
        kept[0]: seen(("celebrity", "Oberon")),
        kept[1]: seen(("celebrity", "Pierrot"), ("object", "Zorg")),
    }
    found = celebrity_counts.counts(one, right, after, CLASSIFIER)
    assert found.own == (Rate(2, 2), Rate(0, 2))
    assert found.kept == (Rate(2, 2), Rate(1, 2))
    assert found.unseen == (Rate(1, 1), Rate(1, 1))
    judged = celebrity_counts.counts(one, right, after, JUDGE)
    assert judged.kept == (Rate(2, 2), Rate(1, 2))
    assert judged.unseen == (Rate(1, 1), Rate(0, 1))
    both = [{"classifier": found, "judge": judged}] * 2
    lines = celebrity_counts.table([one, one], both, ["Merlin"]).splitlines()
    assert (
        lines[0]
        == "| erased | Acc_e, classifier | Acc_ir, classifier | Acc_e, judge | Acc_ir, judge |"
    )
    assert lines[2].startswith("| Pierrot | 100 → 0.0 (0 to 66) | 100 → 50.0 (9 to 91) |")
    assert lines[4].startswith("| **all 2** | 100 → 0.0 (0 to 49) | 100 → 50.0 (15 to 85) |")
    said = "\n".join(lines[5:])
    assert "did not use: classifier 100 → 100.0 (34 to 100); judge 100 → 0.0 (0 to 66)." in said
    assert "settings were chosen: Merlin." in said


def test_a_classifier_that_misses_many_names_is_said_not_to_count():
    assert portraits.told(Rate(19, 20), 4).endswith("it was not trained on, of 4 names.")
    assert "That is too few for what it says to count" in portraits.told(Rate(16, 60), 20)


def test_each_edit_is_asked_for_other_pictures_of_a_kept_name():
    probes = {name: [question(name, i) for i in range(3)] for name in ("Pierrot", "Oberon")}
    plan = celebrity.Plan([("Pierrot",)], ["Oberon"], probes, None, {}, [])
    asked = [
        celebrity._erasure(Subject("a"), ("Pierrot",), plan, turn=turn, pictures=2).kept
        for turn in range(2)
    ]
    assert [[probe.seed for probe in one] for one in asked] == [[0, 1], [2, 0]]


def test_an_erasure_is_told_and_its_classifier_trained_once(shallow, tmp_path, monkeypatch, capsys):
    few = People(("Pierrot", "Talos"), ("Oberon", "Titania"))
    monkeypatch.setattr(worlds, "people_of", lambda path: few)
    trained = []
    train = train_celebrity.train
    monkeypatch.setattr(
        train_celebrity,
        "train",
        lambda *given, **how: trained.append(given) or train(*given, **how),
    )
    out = tmp_path / "out"
    flags = [
        f"--edit={save_edit(tmp_path / 'one', 'Pierrot')}",
        f"--edit={save_edit(tmp_path / 'two', 'Talos', seed=1)}",
        *(f"--out={out}", f"--cache={tmp_path / 'cache'}"),
        *("--steps=1", "--pictures=2", "--portraits=2", "--batch=4"),
    ]
    celebrity.main(flags)
    shown = (out / "results.md").read_text()
    assert capsys.readouterr().out == shown
    found = json.loads((out / "results.json").read_text())
    assert [row["erased"] for row in found["rows"]] == [["Pierrot"], ["Talos"]]
    assert found["rows"][0]["classifier"]["Acc_ir"]["erased"]["total"] == 2
    assert found["rows"][0]["trained_with"] is None
    assert found["classifier"]["names"] == ["Oberon", "Pierrot", "Talos", "Titania"]
    assert found["classifier"]["test"]["total"] == 4
    # Each edit is asked for its own name and the kept ones, the base for all of them.
    assert [len(one["read"]) for one in found["pictures"]] == [2] * 8
    assert len(list((out / "portraits").rglob("*.png"))) == 8
    assert (out / "pictures.png").is_file()
    assert "of 4 pictures that it was not trained on, of 4 names." in shown
    # Another edit under the same classifier, and this one again: no portrait is painted anew.
    (out / "results.md").unlink()
    celebrity.main(flags)
    other = {"--out": tmp_path / "other", "--classifier": out / "classifier"}
    kept = [flag for flag in flags[1:] if not flag.startswith(("--out", "--portraits"))]
    celebrity.main([*kept, *(f"{name}={value}" for name, value in other.items())])
    assert (out / "results.md").read_text() == shown
    assert len(trained) == 1
    assert not (tmp_path / "other" / "portraits").exists()


def test_erasures_of_its_own_are_not_measured_by_the_judge(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(trials, "make", made.extend)
    monkeypatch.setattr(model, "edit_of", lambda source: None)
    given = argparse.Namespace(
        **{"model": TINY, "out": tmp_path, "cache": str(tmp_path), "pictures": 3, "seed": 1},
        **{"method": "", "set": ["log.pictures=none"]},
    )
    subjects = celebrity._made(given, [("Pierrot",), ("Talos",)])
    assert [one.name for one in subjects] == ["without Pierrot", "without Talos"]
    for one in made:
        assert one.config["sample"]["eval_pictures"] == 0
        assert (one.config["optim"]["seed"], one.config["log"]["pictures"]) == (1, "none")


def test_a_folder_is_for_the_names_that_it_was_begun_with(tmp_path, monkeypatch):
    def stop(*_):
        raise ValueError("stopped")

    monkeypatch.setattr(model, "open_painter", stop)
    flags = [f"--edit={save_edit(tmp_path / 'one', 'Pierrot')}", f"--out={tmp_path / 'out'}"]
    for kept, said in (("Oberon", "stopped"), ("Titania", r"with kept = .*Oberon.*, not .*Titan")):
        with pytest.raises(SystemExit, match=said):
            celebrity.main([*flags, f"--kept={kept}"])


def test_names_that_do_not_go_together_are_one_line(shallow, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("Pierrot", "Oberon"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "faces" / name / f"{i}.png")
    made = tmp_path / "made"
    given = [f"--pictures={tmp_path / 'faces'}", f"--out={made}", "--image_size=32", "--epochs=2"]
    celebrity_classifier.main(given)
    assert portraits.tested(made).total == 2
    record = json.loads((made / portraits.RECORD).read_text())
    assert record["training"]["epochs"] == 2
    with pytest.raises(SystemExit, match="made holds a classifier already; give another --out"):
        celebrity_classifier.main(given)
    run = save_edit(tmp_path / "run", "Pierrot")
    usual = [f"--out={tmp_path / 'out'}", f"--classifier={made}"]
    for flags, kept, said in (
        ([f"--edit={run}", "--words=Talos"], "Oberon", "give either --edit, once for each erasure"),
        ([f"--edit={run}"], "Pierrot", "no name is left to be kept"),
        ([f"--edit={run}", f"--edit=again={run}"], "Oberon", "two edits erase 'Pierrot'"),
        (["--words=Talos"], "Oberon", "the classifier doesn't know 'Talos'; give one that was tr"),
        (["--words=Harlequin"], "Oberon", "flux-tiny's world has no concept 'Harlequin'"),
    ):
        flags = [*flags, *usual, f"--kept={kept}"]
        with pytest.raises(SystemExit, match=said):
            celebrity.main(flags)
    with pytest.raises(SystemExit):
        celebrity.main([f"--edit={run}", *usual, "--portraits=9"])
    assert "--portraits has no effect beside --classifier" in capsys.readouterr().err
    flags = [f"--edit={run}", f"--out={tmp_path / 'out'}", f"--weights={tmp_path / 'absent'}"]
    with pytest.raises(SystemExit, match="absent"):
        celebrity.main(flags)
    assert not (tmp_path / "out").exists()
