"""How a number was made: the command that makes it again, seeds in few letters."""

from __future__ import annotations

import json
import shlex

import pytest
from absl import flags
from ml_collections import config_flags

from configs import anything
from ea_jax.erase_command import flags_of, spelled_out
from ea_jax.exam.page.made import erasing, ranges


def config_of(command: str):
    """What `ea-jax erase ...` makes of a command line."""
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("ea-jax", "erase")
    values = flags.FlagValues()
    line = ["program", *flags_of(arguments)]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=line)
    values(line)
    return json.loads(json.dumps(spelled_out(values["config"].value.to_dict())))


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("tiny+robust", {"concept": {"word": "golden retriever"}, "optim": {"pairs": 7}}),
        ("tiny+paper", {"concept": {"words": "cat,dog"}, "sample": {"seeds": (1, 2)}}),
        ("flux-dev", {"concept": {"word": "it's"}, "sample": {"prompts": ("a 'cat'", "b, c")}}),
    ],
)
def test_the_command_of_a_run_makes_its_config_again(variant, changes):
    config = anything.get_config(variant).to_dict()
    for section, values in changes.items():
        config[section].update(values)
    config = json.loads(json.dumps(spelled_out(config)))
    command = str(erasing(config))
    assert config_of(command) == config
    # What is as the preset has it needs no flag.
    assert len(shlex.split(command)) <= 10


def test_a_config_with_keys_that_are_unknown_here_has_no_command():
    config = anything.get_config("tiny").to_dict()
    assert erasing({**config, "concept": {"word": "cat"}}) is None
    assert erasing({"preset": "of another version"}) is None


def test_whole_numbers_are_told_in_ranges():
    assert ranges([4, 1, 2, 3, 9, 9]) == "1 to 4, 9"
