"""Attacks on a small random pipeline: each search lowers its own loss, and planted ones succeed."""

from __future__ import annotations

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_bench import BASE, CAT, LENGTH, Bright, task

from ea_jax import painter
from ea_jax.attacks import inversion, pictures, prefix, prompts, relearning, ring_a_bell
from ea_jax.attacks.bench import Bench
from ea_jax.attacks.trials import Victim
from ea_jax.edits import Edit
from ea_jax.evaluate.probes import Probe, Reading
from ea_jax.flux import latents
from ea_jax.flux.transformer import velocity

pytestmark = pytest.mark.long

STEPS = (0, 25)


@functools.partial(jax.jit, static_argnames=("config", "grid"))
def _velocity(weights, adapters, x_BSC, t_B, text, *, config, grid):
    guidance_B = jnp.full(len(t_B), 3.5)
    return velocity(
        weights, config, x_BSC, t_B, text, grid=grid, guidance_B=guidance_B, lora=adapters
    )[0]


def velocity_of(bench, bound, x_BSC, t, text):
    """The velocity of bound weights and adapters at one noise level."""
    config, grid = bench.painter.pipeline.transformer_config, bench.forward().grid
    t_B = jnp.full(len(x_BSC), t, jnp.float32)
    return _velocity(*bound, x_BSC, t_B, text, config=config, grid=grid)


def miss(bench, victim, said):
    """Mean squared distance of a victim's velocity to the base's under the word."""
    shape = (len(bench.probes), *bench.forward().latent_shape)
    x_BSC = np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    def v(one, said):
        bound = bench.painter.bound(one.edit, one.strength)
        return velocity_of(bench, bound, x_BSC, 0.8, said.texts.text(said.texts.prompts))

    return float(jnp.square(v(victim, said) - v(BASE, bench.plain)).mean())


def test_zeroed_columns_hide_the_word_and_no_other(bench):
    """Where no word is found, the filter paints what the base paints, bit for bit."""
    plain = prompts.plain(bench)
    zeroed = Victim("zeroed", zeroed=True)
    blind = dataclasses.replace(
        plain, said=dataclasses.replace(plain.said, word_UT=np.zeros_like(plain.said.word_UT))
    )
    asked = [one.prompt for one in plain.probes], [one.seed for one in plain.probes]
    base, hidden, other = (
        bench.canvas(victim, trial).paint(*asked)
        for victim, trial in ((BASE, plain), (zeroed, plain), (zeroed, blind))
    )
    np.testing.assert_allclose(other, base, atol=1e-5)
    assert np.abs(hidden - base).max() > 1e-3
    # Tokens are letters: the word is three of them, and the mark of its start.
    assert plain.said.word_UT.sum(1).tolist() == [4, 4, 4]
    facts = [bench.canvas(one, plain).facts() for one in (BASE, zeroed)]
    assert facts[0] != facts[1]


def test_a_word_for_one_encoder_leaves_the_other_without(bench):
    plain = bench.plain.texts
    for_t5, for_clip = (attack.trials(bench, BASE)[0].said for attack in prompts.split())
    np.testing.assert_array_equal(for_t5.texts.t5_UTD, plain.t5_UTD)
    np.testing.assert_array_equal(for_clip.texts.pooled_UD, plain.pooled_UD)
    assert not np.array_equal(for_t5.texts.pooled_UD, plain.pooled_UD)
    assert not np.array_equal(for_clip.texts.t5_UTD, plain.t5_UTD)
    assert for_t5.word_UT.any()
    assert not for_clip.word_UT.any()


def test_an_inversion_paints_like_the_word_also_where_a_lora_moved_the_model(bench, edited):
    # At strength 0 it is the base, in the program of the edit.
    for victim, bar in ((Victim("base", edited.edit, 0.0), 0.7), (edited, 0.9)):
        before, after = inversion.find(bench, victim, STEPS, 2)
        plain = bench.plain
        for start, found in zip(before, after, strict=True):
            first = miss(bench, victim, inversion.placed(plain, start))
            assert miss(bench, victim, inversion.placed(plain, found)) < bar * first


def test_an_inversion_holds_no_word_that_a_filter_finds(bench, edited):
    trials = inversion.cce(STEPS, 2).trials(bench, edited)
    assert [(one.budget, one.start) for one in trials] == [
        ("0 steps", 0), ("0 steps", 1), ("25 steps", 0), ("25 steps", 1)
    ]  # fmt: skip
    plain = bench.plain
    for trial in trials:
        assert not trial.said.word_UT.any()
        changed_UT = (trial.said.texts.t5_UTD != plain.texts.t5_UTD).any(-1)
        np.testing.assert_array_equal(changed_UT, plain.word_UT)


@pytest.mark.slow
@pytest.mark.parametrize(
    "search", [prefix.TOKENWISE, prefix.RELAXED], ids=lambda search: search.name
)
def test_a_prefix_lowers_the_loss_on_a_picture_of_the_concept(bench, search, monkeypatch):
    monkeypatch.setattr(prefix, "_RATE", 0.3)
    monkeypatch.setattr(prefix, "_EVERY", 2)
    monkeypatch.setattr(prefix, "_TRIED", 6)
    probes = bench.probes
    outputs_ZPTD = prefix.find(bench, BASE, search, (0, 12))
    others = [Probe(p.prompt, p.seed + prefix._OTHER_SEEDS, ()) for p in probes]
    x0_PSC = bench.pictures(others)
    before, after = (loss_on(bench, t5_PTD, x0_PSC) for t5_PTD in outputs_ZPTD)
    assert after < before


def loss_on(bench, t5_PTD, x0_PSC):
    said = bench.plain.texts
    rng, total = np.random.default_rng(7), 0.0
    text = said.text(said.prompts).replace(t5_BTD=t5_PTD)
    for t in np.linspace(0.5, 1, 6):
        noise_PSC = rng.standard_normal(x0_PSC.shape).astype(np.float32)
        x_PSC = ((1 - t) * x0_PSC + t * noise_PSC).astype(np.float32)
        v = velocity_of(bench, bench.painter.bound(None), x_PSC, t, text)
        total += float(jnp.square(v - (noise_PSC - x0_PSC)).mean())
    return total


def test_swaps_find_the_tokens_of_least_error_and_stay_tokens():
    words_VD = jnp.asarray(np.random.default_rng(0).normal(size=(90, 16)), jnp.float32)
    wanted_BK = np.array([[3, 70], [41, 5]])
    errors = lambda u_BKD: jnp.square(u_BKD - words_VD[wanted_BK]).sum((1, 2))  # noqa: E731
    move = jax.jit(lambda u_BKD, key: prefix.swapped(u_BKD, (), errors, words_VD, key)[0])
    u_BKD, before_B = words_VD[np.array([[0, 1], [2, 3]])], None
    for turn in range(40):
        error_B = errors(u_BKD)
        assert before_B is None or (error_B <= before_B).all()
        u_BKD = move(u_BKD, jax.random.key(turn))
        before_B = error_B
    assert (errors(u_BKD) == 0).all()


def test_a_genetic_search_comes_nearer_to_its_target_and_never_says_the_word(bench):
    asked = [probe.prompt for probe in bench.probes]
    found_ZPK = ring_a_bell.find(bench, (0, 12), 16)
    search = ring_a_bell.Search(bench)
    target_PF = search.targets(asked)
    before, after = (
        np.concatenate(
            [search.fitness(prompt, ids_K[None], target_F) for prompt, ids_K, target_F in each]
        )
        for each in (zip(asked, ids_PK, target_PF, strict=True) for ids_PK in found_ZPK)
    )
    assert len(asked) == len(after)
    assert (after >= before).all()
    assert after.sum() > before.sum()
    ids_K = bench.painter.pipeline.t5_tokenizer("my cat", add_special_tokens=False)["input_ids"]
    assert search.fitness(asked[0], np.array([ids_K]), target_PF[0])[0] == -np.inf


def test_relearning_lowers_the_loss_on_the_concepts_pictures(bench, edited, monkeypatch):
    """A LoRA put the model far from its pictures; some steps on them bring it back."""
    monkeypatch.setattr(relearning, "_RATE", 1e-2)
    first, last = relearning.learned(bench, edited, (0, 12))
    said = bench.say([probe.prompt for probe in bench.own]).texts
    x0_PSC = bench.pictures(bench.own)
    rng = np.random.default_rng(3)
    noise_PSC = rng.standard_normal(x0_PSC.shape).astype(np.float32)

    def loss(extra):
        bound = bench.painter.bound(*edited.with_another(Edit(extra)))
        x_PSC, text = 0.5 * (x0_PSC + noise_PSC), said.text(said.prompts)
        v = velocity_of(bench, bound, x_PSC, 0.5, text)
        return float(jnp.square(v - (noise_PSC - x0_PSC)).mean())

    assert loss(last) < 0.9 * loss(first)
    assert relearning.relearning().trials(bench, BASE) == []


def test_searches_take_other_prompts_than_the_attack_s_while_there_are_enough(bench):
    asked = [probe.prompt for probe in bench.probes]
    twice = task(*asked, *(f"{n} of a cat" for n in range(20)), first=50)
    again = Bench(
        bench.painter,
        task=bench.task,
        own=twice,
        text_length=LENGTH,
        detector=bench.detector,
        cache=None,
    )
    assert len(again.own) == 16
    assert not {probe.prompt for probe in again.own} & {*asked}


def test_pictures_of_the_concept_are_looked_for_under_several_seeds(bench, caplog, tmp_path):
    probes = [
        dataclasses.replace(probe, seed=probe.seed + 7 * n) for n in range(4) for probe in bench.own
    ]

    class Seldom(Bright):
        """Sees a cat in the brighter half of all."""

        version = "2"

        def __call__(self, images_BHWC, prompts):
            means.extend(image.mean() for image in images_BHWC)
            return [
                Reading(CAT if image.mean() > middle else frozenset(), True)
                for image in images_BHWC
            ]

    means, middle = [], 2.0
    picky = copy.copy(bench)
    picky.detector, picky.cache = Seldom(), None
    picky.pictures(probes)
    said = "8 of 8 pictures that the attack uses don't show 'cat'"
    assert said in caplog.text
    assert len(means) == 5 * len(probes)
    # Kept ones say it again.
    picky.cache = tmp_path
    picky.pictures(probes)
    means.clear()
    caplog.clear()
    picky.pictures(probes)
    assert said in caplog.text
    assert not means
    picky.cache = None
    picky.pictures(probes)
    # Of two in three of them a later seed is brighter than the middle.
    tried = np.reshape(means, (5, -1))
    middle = float(np.median(tried))
    caplog.clear()
    found_PSC = picky.pictures(probes)
    z_PhwC = latents.unpack(jnp.asarray(found_PSC), picky.canvas(BASE, prompts.plain(picky))._grid)
    shown = np.asarray(picky.painter.pipeline.decode(z_PhwC)).mean((1, 2, 3))
    first = [next((m for m in column if m > middle), column[0]) for column in tried.T]
    np.testing.assert_allclose(shown, first, atol=1e-5)


def test_a_picture_at_a_low_noise_level_comes_back(bench):
    plain = prompts.plain(bench)
    trials = {t.budget: t for t in pictures.image_to_image().trials(bench, BASE)}
    pair = plain.probes[0].prompt, plain.probes[0].seed
    clean = trials["level 0.3"].pictures.latents[pair]
    distance = {}
    for budget in ("level 0.3", "level 0.9"):
        z_PhwC, _ = bench.canvas(BASE, trials[budget]).sample([pair[0]], [pair[1]])
        packed = np.asarray(latents.pack(z_PhwC))[0]
        distance[budget] = np.square(packed - clean).mean()
    assert distance["level 0.3"] < distance["level 0.9"]


def test_inverted_noise_leads_the_victim_back_to_the_picture(bench, edited):
    (trial,) = pictures.inversion().trials(bench, edited)
    pairs = list(trial.pictures.latents)
    probes = [probe for row in bench.seeded(bench.probes) for probe in row]
    clean_PSC = bench.pictures(probes, apart=pictures._OTHER_SEEDS)
    distance = {}
    for name, given in (("inverted", trial), ("noise", prompts.plain(bench))):
        asked = [prompt for prompt, _ in pairs], [seed for _, seed in pairs]
        z_PhwC, _ = bench.canvas(edited, given).sample(*asked, edit=edited.edit)
        distance[name] = np.square(np.asarray(latents.pack(z_PhwC)) - clean_PSC).mean()
    assert distance["inverted"] < 0.5 * distance["noise"]


def test_what_was_found_and_read_is_not_made_again(bench, edited, monkeypatch):
    attack = inversion.cce(STEPS, 2)
    first = bench.read(edited, attack.trials(bench, edited)[-1])
    assert len(first) == 3
    assert len(first[0]) == 2

    def again(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(inversion, "_search", again)
    monkeypatch.setattr("ea_jax.attacks.canvas.Canvas.sample", again)
    assert bench.read(edited, attack.trials(bench, edited)[-1]) == first
    with pytest.raises(AssertionError, match="made again"):
        bench.read(Victim("zeroed", zeroed=True), prompts.plain(bench))
    monkeypatch.setattr(painter, "VERSION", painter.VERSION + 1)
    with pytest.raises(AssertionError, match="made again"):
        attack.trials(bench, edited)
