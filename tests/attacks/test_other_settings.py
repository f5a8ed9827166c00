"""Attacks by settings on a small random pipeline: negative prompts, rounded kernels."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from toy_bench import BASE

from ea_jax.attacks import prompts, rounding
from ea_jax.attacks.trials import Victim
from ea_jax.edits import Edit
from ea_jax.flux.stack import unrolled


def trials(name, bench, victim=BASE):
    return next(one for one in prompts.settings() if one.name == name).trials(bench, victim)


def test_true_guidance_steers_away_from_the_prompt_without_the_word(bench, edited):
    names = ("true CFG", "true CFG to the word")
    (empty,), (away,) = (trials(name, bench, edited) for name in names)
    assert set(empty.against.negatives.values()) == {""}
    assert away.against.negatives == {
        "see a cat on ice": "see on ice",
        "the cat": "",
        "my cat sat": "my sat",
    }
    asked = [one.prompt for one in away.probes], [one.seed for one in away.probes]
    edit = {"edit": edited.edit, "strength": 1.0}
    plain = bench.canvas(edited, prompts.plain(bench)).paint(*asked, **edit)
    # A scale of 1 is without guidance.
    for scale, differ in ((1.0, False), (3.0, True)):
        against = dataclasses.replace(away.against, scale=scale)
        canvas = bench.canvas(edited, dataclasses.replace(away, against=against))
        painted = canvas.paint(*asked, **edit)
        assert (np.abs(painted - plain).max() > 1e-3) == differ
        # Each row has its own negative prompt.
        for prompt, seed, picture in zip(*asked, painted, strict=True):
            alone = canvas.paint(prompt, [seed], **edit)[0]
            np.testing.assert_allclose(alone, picture, atol=1e-4)
    assert np.abs(canvas.paint(*asked, **edit) - plain).max((1, 2, 3)).min() > 1e-3
    facts = [bench.canvas(edited, one).facts() for one in (prompts.plain(bench), empty, away)]
    assert len({str(one) for one in facts}) == 3


def test_changes_of_whole_kernels_are_rounded_with_the_base(bench):
    """A change of a tenth of a step is lost in most places, as in a merged model's file."""
    path = ("transformer_blocks", "attn", "to_q")
    frozen = functools.reduce(dict.get, path, bench.painter.bound(None)[0])["kernel"]
    change = 0.1 * np.abs(frozen).max(-2, keepdims=True) / 127 * np.ones_like(frozen)
    deltas = {"transformer_blocks": {"attn": {"to_q": {"kernel": change}}}}
    victim, (trial,) = Victim("kernels", Edit(deltas=deltas), 1.0), trials("int8 base", bench)
    weights, adapters = bench.canvas(victim, trial).bound(victim.edit, 1.0)
    base, _ = bench.canvas(BASE, trial).bound(None)
    mine, same = (functools.reduce(dict.get, path, tree)["kernel"] for tree in (weights, base))
    assert adapters is None
    # The steps are another's largest weight's, which the change moves by less than a thousandth.
    assert 0.7 < np.isclose(mine, same, rtol=2e-3, atol=0).mean() < 0.99


@pytest.mark.parametrize("form", rounding.FORMATS)
def test_an_edit_is_painted_on_top_of_a_rounded_base(bench, edited, form):
    (trial,) = trials(f"{form} base", bench, edited)
    weights, adapters = bench.canvas(edited, trial).bound(edited.edit, 1.0)
    frozen, same = bench.painter.bound(edited.edit, 1.0)
    jax.tree.map(np.testing.assert_array_equal, adapters, same)
    stacked = ("transformer_blocks", "attn", "to_q")
    for path in (("context_embedder",), stacked):
        rounded, full = (functools.reduce(dict.get, path, tree) for tree in (weights, frozen))
        off, size = np.abs(rounded["kernel"] - full["kernel"]), np.abs(full["kernel"])
        # Half of a step of int8; of e4m3, with three bits behind the point, half of the last, or
        # of the least number that it knows.
        step = {
            "int8": size.max(-2, keepdims=True) / 127,
            "fp8": np.maximum(size / 8, 2.0**-9),
        }[form]
        assert (off <= 0.501 * step).all()
        assert off.max() > 0.1 * np.min(step)
    beside = rounding.rounded(unrolled(frozen, transposes=True), form)
    for block in beside["transformer_blocks"]:
        layer = block["attn"]["to_q"]
        np.testing.assert_array_equal(layer["kernel_T"], layer["kernel"].T)
    bias = weights["context_embedder"]["bias"]
    np.testing.assert_array_equal(bias, frozen["context_embedder"]["bias"])
    plain = prompts.plain(bench)
    assert bench.canvas(edited, trial).facts() != bench.canvas(edited, plain).facts()
    asked = [one.prompt for one in plain.probes], [one.seed for one in plain.probes]
    base, on_rounded = (bench.canvas(BASE, one).paint(*asked) for one in (plain, trial))
    assert 1e-4 < np.abs(on_rounded - base).max() < 0.5
