"""What every program of the package does at its start and at its end.

if __name__ == "__main__":
    with one_line_errors():
        start_logging()
        main()
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

# What a user's value, file or disk can cause. Anything else is a fault of the program, and shows
# where it is.
EXPECTED = (ValueError, OSError, FloatingPointError)
STOPPED = 130  # what a shell expects of a program that Ctrl-C ended
# Set to anything: the traceback of those, too.
TRACEBACK = "EA_JAX_TRACEBACK"


def start_logging(level: int = logging.INFO) -> None:
    """Messages alone, on the error stream; of libraries only what is a warning."""
    logging.basicConfig(level=level, format="%(message)s", force=True)
    for library in ("absl", "jax", "orbax", "httpx", "huggingface_hub", "matplotlib", "PIL"):
        logging.getLogger(library).setLevel(logging.WARNING)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with `error: ...` and code 1 where the user can mend what is wrong.

    Ctrl-C ends it with one line, too.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command starts it again\n")
        raise SystemExit(STOPPED) from None
    except EXPECTED as error:
        if os.environ.get(TRACEBACK):
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        raise SystemExit(f"error: {text}") from None
