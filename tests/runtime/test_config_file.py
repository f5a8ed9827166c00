"""A config file that won't do is told by its true cause, in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from ea_jax.runtime import config_file
from ea_jax.runtime.config_file import load

WHOLE = """
from ml_collections import ConfigDict
def get_config(variant="tiny"):
    if variant not in ("tiny", "large"):
        raise ValueError(f"variant {variant!r} is unknown;\\n use tiny")
    return ConfigDict({"variant": variant})
"""


def test_a_config_comes_with_its_variant_and_locked(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(WHOLE)
    assert load(str(file)).to_dict() == {"variant": "tiny"}
    config = load(f"{file}:large")
    assert config.variant == "large"
    assert config.is_locked


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.py", "def get_config(:\n", "a.py, line 1: invalid syntax; mend it"),
        ("a.py", "\0", "a.py.*null byte"),
        ("a.py", "\n\nimport no_such", "a.py, line 3: No module named 'no_such'; install it"),
        ("a.py", "x = 1", "a.py has no function get_config; give a config like configs/nud"),
        ("a.py", "get_config = 1", "a.py has no function get_config"),
        ("a.py", "def get_config():\n  return {}['a']", "a.py, line 2: KeyError: 'a'; mend that"),
        ("a.py", "def get_config(): pass", "get_config returned NoneType, not a ConfigDict"),
        ("a.py", "def get_config(): return {}", "get_config returned dict, not a ConfigDict"),
        ("a.py:x", "def get_config(): pass", "a.py: get_config takes no variant; leave out ':x'"),
        ("a.py:x", WHOLE, "a.py: variant 'x' is unknown; use tiny"),
        ("config.json", "{}", "json is not a Python file; give the config that the run was made"),
        ("absent/a.py", None, "absent/a.py does not exist; give a config like"),
        ("", None, "is a folder; give a config like"),
    ],
)
def test_a_file_that_will_not_do_says_why(
    tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / name.partition(":")[0]).write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        load(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_an_empty_path_is_said_to_be_empty() -> None:
    with pytest.raises(ValueError, match=r"^--config is empty; give a config like"):
        load("")


def test_the_flag_gives_the_cause_and_nothing_before_it() -> None:
    with pytest.raises(flags.Error, match=r"^absent\.py does not exist"):
        config_file._ConfigFile().parse("absent.py")


OPTIONAL = """
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
def get_config():
    return ConfigDict({"guidance": placeholder(float), "teacher": 3.5})
"""
READS = """
import sys
from absl import flags
from ea_jax.runtime import config_file
from ea_jax.runtime.command_line import parse_flags
config_file.define()
parse_flags(sys.argv)
print(flags.FLAGS.config.to_dict())
"""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("guidance=None", "{'guidance': None, 'teacher': 3.5}"),
        ("teacher=None", "{'guidance': None, 'teacher': None}"),
        ("guidance=2", "{'guidance': 2.0, 'teacher': 3.5}"),
        ("guidance=none", "'none' is no number"),
    ],
)
def test_a_number_may_be_none_on_the_command_line(tmp_path: Path, given: str, said: str) -> None:
    file = tmp_path / "a.py"
    file.write_text(OPTIONAL)
    command = [sys.executable, "-c", READS, f"--config={file}", f"--config.{given}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
