"""Probes of an erasure on flux-tiny: held-out words, and questions the prompt does ask."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ea_jax.flux_tiny import vocabulary, world
from ea_jax.flux_tiny.probes import SEEDS, key, probes_for, scene_of

CONCEPTS = ["soccer ball", "nude", "kiss", "sketch", "Santa Claus", "on"]


def asked(probes, metric):
    return [(p, dict(p.questions)[metric]) for p in probes if metric in dict(p.questions)]


@pytest.mark.parametrize("word", CONCEPTS)
def test_every_metric_is_asked_of_as_many_pictures(word):
    probes = probes_for(word, pictures=20)
    for metric in ("Acc_e", "Acc_g", "Acc_near"):
        assert len(asked(probes, metric)) == 20
    assert len(asked(probes, "Acc_rest")) >= 10
    assert [p.seed for p in probes] == list(range(SEEDS, SEEDS + len(probes)))


@pytest.mark.parametrize("word", CONCEPTS)
def test_acc_g_uses_synonyms_that_no_training_may_use(word):
    concept = vocabulary.concept(word)
    for probe, answers in asked(probes_for(word, pictures=20), "Acc_g"):
        assert answers == {key(concept)}
        assert any(synonym in probe.prompt for synonym in concept.held_out)
        assert concept.trained not in probe.prompt.split()


@pytest.mark.parametrize("word", CONCEPTS)
def test_acc_ir_asks_neither_the_concept_nor_its_neighbour_nor_trained_words(word):
    concept = vocabulary.concept(word)
    barred = {key(concept), ("object", "cat"), ("object", "pizza")}
    for probe, answers in asked(probes_for(word, pictures=100, trained=("cat", "pizza")), "Acc_ir"):
        assert not answers & barred
        assert word not in probe.prompt.split()


@pytest.mark.parametrize("word", ["flat art", "pop art"])
def test_a_style_that_is_asked_for_is_named(word):
    """Flat art is the usual style: it goes without saying, but not where it is the question."""
    for metric in ("Acc_e", "Acc_near"):
        for probe, answers in asked(probes_for(word, pictures=20), metric):
            assert {label for _, label in answers} & set(re.findall(r"\w+ art", probe.prompt))


def test_every_prompt_is_in_words_that_training_never_uses():
    templates = {**world.TEMPLATES, "": ()}["eval"]
    templates += world.STYLE_TEMPLATES["eval"] + world.BACKGROUND_TEMPLATES["eval"]
    templates += world.RELATION_BACKGROUNDS["eval"]
    parts = {w for t in templates for w in re.split(r"\{\w?\}|,", t) if w.strip(" a")}
    for word in CONCEPTS:
        for probe in probes_for(word, pictures=50):
            assert any(part.strip() in probe.prompt for part in parts), probe.prompt


def test_an_object_s_rest_can_be_another_object():
    both = [a for _, a in asked(probes_for("soccer ball", pictures=40), "Acc_rest")]
    assert sum(any(head == "object" for head, _ in answers) for answers in both) == 10
    assert not any(("object", "soccer ball") in answers for answers in both)


def test_acc_ir_asks_every_other_concept():
    probes = asked(probes_for("soccer ball", pictures=10), "Acc_ir")
    names = {label for _, answers in probes for _, label in answers}
    assert names == set(vocabulary.CONCEPTS) - {"soccer ball", "basketball"}


def test_other_concepts_are_asked_for_in_the_usual_style():
    probes = probes_for("soccer ball", pictures=200)
    styled = [
        {name for name in vocabulary.STYLE_NAMES if name in probe.prompt}
        for metric in ("Acc_ir", "Acc_near")
        for probe, ((head, _),) in asked(probes, metric)
        if head != "style"
    ]
    assert set().union(*styled) <= {vocabulary.DEFAULT_STYLE}
    mine = [
        any(name in probe.prompt for name in vocabulary.STYLE_NAMES if name != "flat art")
        for probe, _ in asked(probes, "Acc_e")
    ]
    assert 0.15 < sum(mine) / len(mine) < 0.3


def test_acc_near_is_left_out_where_it_is_trained():
    probes = probes_for("soccer ball", pictures=5, trained=["basketball"])
    assert not asked(probes, "Acc_near")
    assert all(("object", "basketball") not in a for _, a in asked(probes, "Acc_ir"))


def test_what_else_a_run_erases_is_neither_asked_for_nor_shown():
    gone = [vocabulary.concept(name) for name in ("dog", "flat art", "umbrella")]
    probes = probes_for("cat", pictures=60, erased=gone)
    assert not asked(probes, "Acc_near")  # the dog
    for probe in probes:
        assert not any(name in probe.prompt for name in ("dog", "umbrella", "flat art"))
        labels = {label for _, answers in probe.questions for _, label in answers}
        assert not labels & {"dog", "umbrella", "flat art"}
    # So every scene is in some other style.
    assert all(any(style in p.prompt for style in vocabulary.STYLE_NAMES) for p in probes)


def test_words_of_one_run_ask_together_for_each_other_concept():
    gone = [vocabulary.concept(name) for name in ("cat", "kiss", "mosaic", "apple")]
    barred = {one.name for one in gone} | {one.near for one in gone}
    found = []
    for one in gone:
        rest = [other for other in gone if other is not one]
        probes = probes_for(one.name, pictures=2, erased=rest, trained=sorted(barred))
        found.append([answers for _, answers in asked(probes, "Acc_ir")])
    others = {frozenset({key(c)}) for c in vocabulary.CONCEPTS.values() if c.name not in barred}
    assert {answers for part in found for answers in part} == others
    assert len(found[0]) == -(-len(others) // 4)


def test_acc_rest_asks_only_what_the_prompt_says():
    for probe, answers in asked(probes_for("soccer ball", pictures=60), "Acc_rest"):
        for _, label in answers:
            assert label in probe.prompt


def test_the_same_seed_gives_the_same_probes_and_another_gives_others():
    assert probes_for("kiss", pictures=5) == probes_for("kiss", pictures=5)
    first, second = (
        [probe.prompt for probe in probes_for("kiss", pictures=5, seed=s)] for s in (0, 1)
    )
    assert first != second


def test_an_unknown_concept_names_its_neighbours():
    with pytest.raises(ValueError, match="no concept 'socer ball'; did you mean 'soccer ball'"):
        probes_for("socer ball", pictures=1)


def test_a_scene_that_cannot_be_without_a_concept_is_refused():
    usual = vocabulary.concept("flat art")
    with pytest.raises(ValueError, match="scenes of 'cat' all show 'flat art'"):
        scene_of(vocabulary.concept("cat"), np.random.default_rng(0), [usual])
