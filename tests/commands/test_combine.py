"""`ea-jax combine`: several edits in one file, which says what it was made of."""

from __future__ import annotations

import json

import numpy as np
import pytest
import toy_lora

from convert import WeightsError, files
from ea_jax import combine, edits
from ea_jax.edits import Edit, Origin

KISS = Edit(toy_lora.trained(), concept="kiss", preset="paper", base="00ff", strength=0.8)
NUDE = Edit(toy_lora.trained(rank=2, seed=1), concept="nude", method="esd", base="00ff")


@pytest.fixture(autouse=True)
def _logs_stay_pytest_s(monkeypatch):
    monkeypatch.setattr(combine, "start_program", lambda: None)


@pytest.fixture
def two(tmp_path):
    for name, edit in (("kiss", KISS), ("nude", NUDE)):
        edits.save(edit, tmp_path / name)
    return [f"--lora={tmp_path / name}" for name in ("kiss", "nude")]


@pytest.mark.parametrize(("flag", "share"), [("--sum", 1.0), ("--mean", 0.5)])
def test_the_file_is_the_sum_or_the_mean_and_names_its_parts(two, tmp_path, flag, share):
    combine.main([*two, flag, "--strength=0.5", "--strength=-1", f"--out={tmp_path / 'both'}"])
    found = edits.load(tmp_path / "both")
    parts = [edits.load(tmp_path / name) for name in ("kiss", "nude")]
    first, second = parts[0].changes(0.5), parts[1].changes(-1.0)
    for path, change in found.changes().items():
        size = float(np.abs(first[path]).max())
        np.testing.assert_allclose(change, share * (first[path] + second[path]), atol=0.02 * size)
    assert found.concept == "kiss, nude"
    assert found.parts == (
        Origin("kiss", None, "paper", "00ff", 0.5 * share),
        Origin("nude", "esd", None, "00ff", -1.0 * share),
    )


def test_recommended_strengths_are_taken_and_parts_of_parts_are_named(two, tmp_path):
    combine.main([*two, "--sum", f"--out={tmp_path / 'both'}"])
    third = edits.save(Edit(toy_lora.trained(seed=2), concept="cat"), tmp_path / "cat")
    combine.main(
        [f"--lora={tmp_path / 'both'}", f"--lora={third}", "--mean", f"--out={tmp_path / 'all'}"]
    )
    found = [(part.concept, part.strength) for part in edits.load(tmp_path / "all").parts]
    assert found == [("kiss", 0.4), ("nude", 0.5), ("cat", 0.5)]


def test_an_edit_that_was_not_combined_is_its_own_origin_and_its_file_lists_no_parts(tmp_path):
    assert KISS.origins() == (Origin("kiss", None, "paper", "00ff", 0.8),)
    assert KISS.origins(2.0)[0].strength == 2.0
    _, metadata = files.header(edits.save(KISS, tmp_path))
    assert "edit_parts" not in metadata


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--sum"], "1 edits can't be combined; give --lora at least twice"),
        (["--sum", "--lora={kiss}"], "is given twice; give it once, with its --strength"),
        (["--sum", "--lora={nude}", "--strength=1"], "1 strengths for 2 edits; give one for each"),
        (["--sum", "--lora={nude}", "--strength=nan"], "--strength is nan"),
        (["--sum", "--mean", "--lora={nude}"], "--mean: not allowed with argument --sum"),
        (["--lora={nude}"], "one of the arguments --sum --mean is required"),
        (["--mean", "--lora={here}/absent"], "absent does not exist"),
        (["--mean", "--lora={nude}", "--out={nude}"], "is there already; choose another --out"),
    ],
)
def test_a_wrong_command_is_one_line_and_writes_nothing(two, tmp_path, capsys, given, words):
    places = {name: str(tmp_path / name) for name in ("kiss", "nude")} | {"here": str(tmp_path)}
    arguments = [argument.format(**places) for argument in given]
    if not any(argument.startswith("--out") for argument in arguments):
        arguments.append(f"--out={tmp_path / 'out'}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        combine.main([two[0], *arguments])
    error = capsys.readouterr().err if stop.value.code == 1 else f"{stop.value.code}\n"
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ("[", "is not JSON"),
        ("{}", "not a list"),
        ("[3]", "'part' is a whole number"),
        ('[{"concept": 3, "strength": 1}]', "'concept' is a whole number"),
        ('[{"concept": "kiss"}]', "lacks 'strength'"),
    ],
)
def test_damaged_parts_are_named_with_their_file(tmp_path, stated, words):
    path = edits.save(Edit(toy_lora.trained(), more={"edit_parts": stated}), tmp_path)
    with pytest.raises(WeightsError, match="combine the edits again") as caught:
        edits.load(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_parts_are_written_as_json(tmp_path):
    both = edits.summed([KISS, NUDE])
    _, metadata = files.header(edits.save(both, tmp_path))
    assert json.loads(metadata["edit_parts"])[0] == {
        "concept": "kiss", "method": None, "preset": "paper", "base": "00ff", "strength": 0.8,
    }  # fmt: skip
    assert edits.load(tmp_path).parts == both.parts
