"""Command lines that end in one line where they are wrong.

app.run(main, flags_parser=parse_flags)
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags


def parse_flags(arguments: Sequence[str]) -> list[str]:
    """Parses flags; what is wrong with them ends the program with `error: ...` and code 1.

    Args:
      arguments: the program's name and its flags, config overrides among them.
    Returns:
      The program's name. A word that belongs to no flag is an error: nothing would read it.
    """
    try:
        name, *stray = flags.FLAGS(arguments)
    except (flags.Error, AttributeError, KeyError, ValueError, OSError) as error:
        raise SystemExit(f"error: {_said(error)}") from None
    if stray:
        raise SystemExit(f"error: {stray[0]!r} belongs to no flag; flags start with --")
    return [name]


def _said(error: Exception) -> str:
    """The cause alone: config files' own errors come with a traceback, unknown keys in wrappers."""
    unknown = isinstance(error, AttributeError | KeyError)
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(error.args[0] if error.args else error).strip()
    if "Traceback" in text:
        # The last line names the exception and says what it is about.
        text = text.splitlines()[-1].strip().partition(": ")[2]
    text = " ".join(text.split()).replace("' Did you", "'; did you")
    return f"the config has no key {text}" if unknown else text
