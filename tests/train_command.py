"""train.py as a process of its own, on a small random pipeline, with few steps."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from places import ROOT


def command(model: Path, folder: Path, cache: Path, *flags: str) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "train.py"),
        f"--config={ROOT / 'configs' / 'soccer.py'}",
        f"--config.model.path={model}",
        f"--config.log.folder={folder}",
        f"--config.data.cache={cache}",
        # Letter-wise tokenizers: texts are long.
        "--config.concept.max_tokens=12",
        "--config.model.text_length=64",
        "--config.optim.pairs=6",
        "--config.sample.steps=4",
        "--config.log.checkpoint_every=2",
        "--config.data.inversions=4",
        "--config.data.inversion_steps=3",
        *flags,
    ]


def run(*args) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, timeout=300)


@contextlib.contextmanager
def started(words: list[str], **options) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the block, whatever fails there."""
    with subprocess.Popen(words, cwd=ROOT, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()
