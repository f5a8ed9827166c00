"""Pictures that training needs: kept part by part, whatever becomes of the run."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from configs import soccer
from ea_jax.flux.transformer import Text
from ea_jax.methods import pictures
from ea_jax.settings import from_config

BATCH, COUNT = 12, 80


@pytest.fixture
def asked(monkeypatch):
    """Seeds of the batches that were sampled, and a model that gives each its seed."""
    found: list[list[int]] = []

    def sampled(_pipeline, text, seeds, **_):
        for start in range(0, len(seeds), BATCH):
            own = seeds[start : start + BATCH]
            found.append(list(own))
            z_BhwC = np.zeros((BATCH, 2, 2, 1), np.float32)
            z_BhwC[: len(own)] += np.asarray(own, np.float32)[:, None, None, None]
            yield z_BhwC + text.pooled_BD[start, 0], len(own)

    monkeypatch.setattr(pictures, "sampled", sampled)
    return found


def sample(cache, model: str = "base") -> np.ndarray:
    made = from_config(soccer.get_config("tiny"))
    made = dataclasses.replace(
        made,
        data=dataclasses.replace(made.data, cache=str(cache)),
        sample=dataclasses.replace(made.sample, batch=BATCH),
    )
    text = Text(
        t5_BTD=np.ones((COUNT, 3, 2), np.float32), pooled_BD=np.ones((COUNT, 2), np.float32)
    )
    pipeline: Any = SimpleNamespace(sigmas=lambda *_: np.ones(2))
    return pictures.sample(
        *(pipeline, text, range(COUNT)),
        settings=made,
        mesh=None,
        lora=None,
        fingerprint=model,
        what="pictures to keep",
    )


def test_a_run_that_is_killed_keeps_the_parts_that_were_sampled(asked, tmp_path, monkeypatch):
    whole_PSC = sample(tmp_path / "whole")
    np.testing.assert_array_equal(whole_PSC[:, 0, 0], np.arange(COUNT) + 1)
    assert list(itertools.chain(*asked)) == list(range(COUNT))
    asked.clear()
    all_of = pictures.sampled

    def killed(pipeline, text, seeds, **how):
        if 60 in seeds:
            raise KeyboardInterrupt
        yield from all_of(pipeline, text, seeds, **how)

    with monkeypatch.context() as patched:
        patched.setattr(pictures, "sampled", killed)
        with pytest.raises(KeyboardInterrupt):
            sample(tmp_path / "cut")
    # A part is the fewest batches that hold 32 pictures.
    assert list(itertools.chain(*asked)) == list(range(36))
    asked.clear()
    np.testing.assert_array_equal(sample(tmp_path / "cut"), whole_PSC)
    assert list(itertools.chain(*asked)) == list(range(36, COUNT))
    asked.clear()
    sample(tmp_path / "cut")
    assert not asked
    sample(tmp_path / "cut", model="another")
    assert list(itertools.chain(*asked)) == list(range(COUNT))
