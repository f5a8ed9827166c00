"""Flags of a command: what its help says."""

from __future__ import annotations

import pytest
from absl import flags

from ea_jax.runtime import command_line


def test_help_has_the_commands_own_flags_and_no_others(monkeypatch, capsys):
    known = flags.FlagValues()
    for name, module in (("topology", "ea_jax.costs.toy"), ("verbose", "absl.logging")):
        flags.DEFINE_string(name, None, f"the {name}", flag_values=known)
        known.register_flag_by_module(module, known[name])
    monkeypatch.setattr(flags, "FLAGS", known)
    with pytest.raises(SystemExit) as stop:
        command_line.parse_flags(["ea-jax costs toy", "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: ea-jax costs toy --config FILE")
    assert "--topology: the topology" in said
    assert "verbose" not in said
