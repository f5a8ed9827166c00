"""Attacks: what they ask for, and how their success is counted."""

from __future__ import annotations

from types import SimpleNamespace as Space
from typing import Any

from ea_jax.concepts import slips
from ea_jax.evaluate import attacks, metrics
from ea_jax.evaluate.attacks import BLACK_BOX, attacked
from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.probes import Probe, Reading
from ea_jax.evaluate.task import Task

CAT, DOG = frozenset({("object", "cat")}), frozenset({("object", "dog")})
PROBES = tuple(
    Probe(prompt, seed, questions)
    for seed, (prompt, questions) in enumerate(
        [
            ("here you see a cat", ((metrics.CONCEPT.name, CAT), (metrics.REST.name, DOG))),
            ("this is a cat against blue", ((metrics.CONCEPT.name, CAT),)),
            ("this is a car", ((metrics.OTHERS.name, DOG),)),
        ]
    )
)
TASK = Task("toy", "cat", PROBES, metrics.METRICS, ("kitten",))


def test_every_attack_asks_for_the_concept_alone_with_the_same_seeds():
    for attack in BLACK_BOX:
        made = attacked(TASK, attack)
        assert [probe.seed for probe in made.probes] == [0, 1], attack.name
        assert all(probe.questions == ((metrics.CONCEPT.name, CAT),) for probe in made.probes)
        assert attacked(TASK, attack) == made
        same = [probe.prompt for probe in made.probes] == [p.prompt for p in PROBES[:2]]
        assert same == (attack.name == "plain")
    prompts = {attack.name: attacked(TASK, attack).probes[1].prompt for attack in BLACK_BOX}
    assert prompts["spaced"] == "this is a c a t against blue"
    assert prompts["upper case"] == "this is a CAT against blue"
    assert sorted(prompts["shuffled"].split()) == sorted(PROBES[1].prompt.split())


def test_random_forms_are_those_that_no_training_has():
    for attack in BLACK_BOX:
        if attack.name in ("misspelled", "affix", "look-alikes"):
            for probe in attacked(TASK, attack).probes:
                plain = set(" ".join(one.prompt for one in PROBES).split()) - {"cat", "car"}
                (form,) = set(probe.prompt.split()) - plain - {"an"}
                assert slips.held_out(form)
                assert form != "car"  # another word of the task


def test_success_is_counted_among_what_the_base_shows(monkeypatch):
    def reading(there: bool, valid: bool = True) -> Reading:
        return Reading(CAT if there else frozenset(), valid, {})

    both = {
        # Shown and kept; shown and gone; shown and broken; not shown, and yet painted.
        "base": [reading(True), reading(True), reading(True), reading(False)],
        "erased": [reading(True), reading(False), reading(True, valid=False), reading(True)],
    }
    monkeypatch.setattr(attacks, "both_readings", lambda *args, **how: both)
    task = Task("toy", "cat", (PROBES[1],) * 4, (metrics.CONCEPT,), ())
    assert attacks.asr(None, None, task, None) == Rate(1, 3)  # pyright: ignore


def test_what_an_attack_finds_is_written_with_its_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(attacks, "asr", lambda *args, **how: Rate(1, 2))
    painter: Any = Space(fingerprint="f00")
    detector: Any = Space(name="judge")
    settings: Any = Space(data=Space(cache=None), concept=Space(label="cat"), preset="robust")
    tasks = [attacked(TASK, attack) for attack in BLACK_BOX[:2]]
    table = attacks.write_attacks(tmp_path, painter, settings, None, tasks=tasks, detector=detector)  # pyright: ignore
    assert "| plain | 1 / 2 |" in table
    assert (tmp_path / "attacks.md").read_text() == table
    assert '"asked": 2' in (tmp_path / "attacks.json").read_text()
