"""`ea-jax` finds its commands by one word or two, and by their earlier names."""

from __future__ import annotations

import sys
import types

import pytest

from ea_jax import __main__ as command


@pytest.fixture
def called(monkeypatch) -> list[tuple[str, list[str]]]:
    """What each command was given; `evaluate concepts` stands for one that is yet to come."""
    found: list[tuple[str, list[str]]] = []
    names = {"one": "evaluate", "two": "evaluate concepts", "three": "costs aot"}
    for module, name in names.items():
        made = types.ModuleType(module)
        made.__dict__["main"] = lambda arguments, name=name: found.append((name, arguments))
        monkeypatch.setitem(sys.modules, module, made)
    commands = {name: (module, name) for module, name in names.items()}
    monkeypatch.setattr(command, "COMMANDS", commands)
    return found


@pytest.mark.parametrize(
    ("given", "name", "arguments"),
    [
        (["evaluate", "--run=a"], "evaluate", ["--run=a"]),
        (["evaluate", "concepts", "cat"], "evaluate concepts", ["cat"]),
        (["costs", "aot"], "costs aot", []),
        (["measure", "--run=a"], "evaluate", ["--run=a"]),
    ],
)
def test_the_longest_name_is_the_command(given, name, arguments, called) -> None:
    command.main(given)
    assert called == [(name, arguments)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ["costs", "aott"],
            "error: 'costs aott' is no command of ea-jax; did you mean 'costs aot'?",
        ),
        (["costs"], "error: 'costs' is no command of ea-jax"),
        (["evaluat"], "error: 'evaluat' is no command of ea-jax; did you mean 'evaluate'?"),
    ],
)
def test_an_unknown_command_is_named(given, words, called) -> None:
    with pytest.raises(SystemExit, match="no command of ea-jax") as stop:
        command.main(given)
    assert str(stop.value).startswith(words)
    assert not called


@pytest.mark.parametrize("given", [[], ["--help"], ["costs", "--help"]])
def test_all_commands_are_listed(given, called, capsys) -> None:
    command.main(given)
    assert capsys.readouterr().out == command.usage()
    assert not called


def test_an_earlier_name_is_not_listed() -> None:
    assert "measure" not in command.usage().split()
    assert "evaluate" in command.usage().split()
    assert set(command.ALIASES.values()) <= set(command.COMMANDS)
