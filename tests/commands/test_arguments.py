"""Arguments of commands: one line names the argument, its value, and what is allowed."""

from __future__ import annotations

import pytest

from ea_jax import evaluate_run, sample, table
from ea_jax.arguments import Parser, each, number, text


def parser() -> Parser:
    made = Parser("some", "Does something.")
    made.add("--name", rule=text)
    made.add("--strength", rule=number())
    made.add("--count", rule=number(int, low=1, high=9))
    made.add("--seed", rule=each(number(int, low=0)), default=[0])
    return made


def said(run, *arguments: str, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        run(list(arguments))
    assert stop.value.code == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_values_that_are_right_are_taken() -> None:
    given = parser().parse_args(["--name=a", "--strength", "-1.5", "--count=9", "--seed=3, 1"])
    assert (given.name, given.strength, given.count, given.seed) == ("a", -1.5, 9, [3, 1])
    given = parser().parse_args([])
    assert (given.name, given.strength, given.count, given.seed) == (None, None, None, [0])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--name=", "--name is empty; give a value, or leave the argument out"),
        ("--name=  ", "--name is empty"),
        ("--strength=nan", "--strength is nan; it has to be a finite number"),
        ("--strength=inf", "--strength is inf; it has to be a finite number"),
        ("--strength=-inf", "--strength is -inf; it has to be a finite number"),
        ("--strength=1e999", "--strength is 1e999; it has to be a finite number"),
        ("--strength=1e39", "--strength is 1e39; it has to be a finite number"),
        ("--strength=", "--strength is ''; it has to be a finite number"),
        ("--strength=half", "--strength is 'half'; it has to be a finite number"),
        ("--count=0", "--count is 0; it has to be a whole number from 1 to 9"),
        ("--count=10", "--count is 10; it has to be a whole number from 1 to 9"),
        ("--count=1.5", "--count is '1.5'; it has to be a whole number from 1 to 9"),
        ("--seed=-1", "--seed is -1; it has to be a whole number from 0 on"),
        ("--seed=1,,2", "--seed is ''; it has to be a whole number from 0 on"),
        ("--seed=1,1", "--seed is 1,1; each may be there once"),
        ("--name=--", "--name is '--', which is no value"),
        ("--coun=1", "--coun=1"),
        ("stray", "stray"),
    ],
)
def test_a_wrong_value_is_one_line(argument: str, words: str, capsys) -> None:
    assert words in said(parser().parse_args, argument, capsys=capsys)


def test_an_argument_given_twice_is_an_error(capsys) -> None:
    error = said(parser().parse_args, "--strength=1", "--strength=1", capsys=capsys)
    assert "--strength is given twice; give it once" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lora="], "--lora is empty"),
        (["--model="], "--model is empty"),
        (["--out="], "--out is empty"),
        (["--strength=0.5"], "--strength has no effect without --lora"),
        (["--guidance=-1"], "--guidance is -1; it has to be a finite number from 0 on"),
        (["--guidance=nan"], "--guidance is nan"),
        (["--steps=0"], "--steps is 0; it has to be a whole number from 1 to 1000"),
        (["--size=0"], "--size is 0"),
        (["--size=100000000"], "--size is 100000000; it has to be a whole number from 1 to 16384"),
        (["--text_length=513"], "--text_length is 513; it has to be a whole number from 2 to 512"),
        (["--seed="], "--seed is ''"),
        (["--seed=4294967296"], "--seed is 4294967296"),
    ],
)
def test_sample_refuses_before_it_loads_anything(arguments: list[str], words: str, capsys) -> None:
    assert words in said(sample.parse, "--prompt=a cat", *arguments, capsys=capsys)


def test_sample_wants_a_prompt_and_takes_an_empty_one(capsys) -> None:
    assert "--prompt" in said(sample.parse, capsys=capsys)
    assert sample.parse(["--prompt", "", "--prompt=a cat"]).prompt == ["", "a cat"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run=a"], "--out"),
        (["--run=a", "--out=b", "--strength=nan"], "--strength is nan"),
        (["--run=", "--out=b"], "--run is empty"),
        (["--run=a", "--out=b", "--pictures=0"], "--pictures is 0"),
        (["--run=a", "--out=b", "--text_length=1"], "--text_length is 1"),
    ],
)
def test_evaluate_refuses_before_it_reads_anything(arguments, words: str, capsys) -> None:
    assert words in said(evaluate_run.main, *arguments, capsys=capsys)


def test_table_wants_runs(capsys) -> None:
    assert "runs" in said(table.main, capsys=capsys)
