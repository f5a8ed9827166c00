"""The flag `--config FILE.py[:VARIANT]`; a file that won't do is one line with its true cause."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

_FORM = "give a config like configs/nudity.py"


def define(arguments: Sequence[str] | None = None) -> None:
    """Defines the flag, and with it one for each of the config's keys.

    Args:
      arguments: flags among which `--config` is looked for; None takes the program's own.
    """
    config_flags.register_flag_parser_for_type(float, _Float())
    given = None if arguments is None else ["", *arguments]
    try:
        config_flags.DEFINE_config_file("config", lock_config=True, sys_argv=given)
    # It looks through the arguments itself, a --flagfile among them.
    except flags.Error as error:
        said = " ".join(str(error).split()).removeprefix("ERROR:: ")
        raise SystemExit(f"error: {said}; give a file that is there") from None
    # ml_collections' own parser keeps some errors for later, and gives others as tracebacks.
    flags.FLAGS["config"].parser = _ConfigFile()
    flags.mark_flag_as_required("config")


def overridden() -> list[str]:
    """Full names of the settings that flags changed, like `esd.lr`, once flags are parsed."""
    return list(config_flags.get_override_values(flags.FLAGS["config"]))


def load(path: str) -> ConfigDict:
    """What a config file's `get_config` returns, locked.

    Args:
      path: of a Python file; behind a colon the variant that `get_config` is given.
    Raises:
      ValueError: no such file, one that isn't Python or can't be run, or no ConfigDict. One line.
    """
    name, *variant = path.split(":", 1)
    if not name:
        raise ValueError(f"--config is empty; {_FORM}")
    file = Path(name)
    if file.is_dir():
        raise ValueError(f"{file} is a folder; {_FORM}")
    if not file.exists():
        raise ValueError(f"{file} does not exist; {_FORM}")
    if file.suffix != ".py":
        raise ValueError(
            f"{file} is not a Python file; give the config that the run was made with, like "
            "configs/nudity.py"
        )
    spec = importlib.util.spec_from_file_location("config_file", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by its name.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        if not callable(get_config := getattr(module, "get_config", None)):
            raise ValueError(f"{file} has no function get_config; {_FORM}")
        config = _called(get_config, variant, file)
    # Whatever a user's own program raises.
    except Exception as error:
        raise ValueError(_said(error, file)) from error
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"{file}: get_config returned {type(config).__name__}, not a ConfigDict; "
            "let it return one"
        )
    return config.lock()


def _called(get_config: Callable[..., Any], variant: list[str], file: Path) -> Any:
    try:
        inspect.signature(get_config).bind(*variant)
    except TypeError:
        given = f"takes no variant; leave out ':{variant[0]}'" if variant else "needs a variant"
        raise ValueError(f"{file}: get_config {given}") from None
    return get_config(*variant)


class _ConfigFile(flags.ArgumentParser):
    def parse(self, argument: str) -> ConfigDict:
        try:
            return load(argument)
        except ValueError as error:
            # absl would put the flag's name before a ValueError.
            raise flags.Error(str(error)) from error

    def flag_type(self) -> str:
        return "config file"


class _Float(flags.FloatParser):
    """A number, or None: whether a key can be None is its section's rule."""

    def parse(self, argument: str) -> Any:
        return None if argument == "None" else super().parse(argument)


def _said(error: Exception, file: Path) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, SyntaxError):
        # A null byte has no line.
        where = f"{error.filename}, line {error.lineno}" if error.lineno else str(file)
        return f"{where}: {error.msg}; mend it"
    # Raised on purpose: an unknown variant.
    if isinstance(error, ValueError):
        return text if text.startswith(str(file)) else f"{file}: {text}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename) == file.absolute()]
    line = f", line {own[-1].lineno}" if own else ""
    if isinstance(error, ImportError):
        return f"{file}{line}: {text}; install it, or take that import out"
    what = "that line" if own else "the file"
    return f"{file}{line}: {type(error).__name__}: {text}; mend {what}"
