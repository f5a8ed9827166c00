"""Command lines that end in one line where they are wrong.

app.run(main, flags_parser=parse_flags)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from absl import flags


def parse_flags(arguments: Sequence[str]) -> list[str]:
    """Parses flags; what is wrong with them ends the program with `error: ...` and code 1.

    `--help` ends it, too, with what the command's own flags say.

    Args:
      arguments: the program's name and its flags, config overrides among them.
    Returns:
      The program's name. A word that belongs to no flag is an error: nothing would read it.
    """
    if {"-h", "-help", "--help"} & set(arguments[1:]):
        sys.stdout.write(_help(arguments[0]))
        raise SystemExit(0)
    try:
        name, *stray = flags.FLAGS(arguments)
    except (flags.Error, AttributeError, KeyError, ValueError, OSError) as error:
        raise SystemExit(f"error: {_said(error)}") from None
    # What ml_collections raises for a key below one that holds no keys, or beyond a tuple's end.
    except (TypeError, IndexError) as error:
        raise SystemExit(
            f"error: a flag names what is no key of the config ({' '.join(str(error).split())}); "
            "give a key's whole value, --config.sample.seeds='(1,2)'"
        ) from None
    if stray:
        raise SystemExit(f"error: {stray[0]!r} belongs to no flag; flags start with --")
    return [name]


def _help(name: str) -> str:
    """Flags of a command; absl would show those of the module that the process began with."""
    # A program that was started by its file has its flags under that name.
    known = flags.FLAGS.flags_by_module_dict()
    own = [one for one in known if one.partition(".")[0] == "ea_jax" or one == sys.argv[0]]
    said = [flags.FLAGS.module_help(one).strip().partition("\n")[2] for one in own]
    return (
        f"usage: {name} --config FILE[:VARIANT] [--config.SECTION.KEY=VALUE ...] [flags]\n\n"
        + "\n".join(said)
        + "\n\nSections and keys are those of ea_jax/settings.\n"
    )


def _said(error: Exception) -> str:
    """The cause alone: unknown keys come in wrappers, numbers in Python's own words."""
    unknown = isinstance(error, AttributeError | KeyError)
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = " ".join(str(error.args[0] if error.args else error).split())
    text = text.replace("' Did you", "'; did you")
    text = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is no whole number", text)
    text = re.sub(r"could not convert string to float: (.*)", r"\1 is no number", text)
    return f"the config has no key {text}" if unknown else text
