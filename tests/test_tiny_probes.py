"""Probes of an erasure on flux-tiny: held-out words, and questions the prompt does ask."""

from __future__ import annotations

import pytest

from ea_jax.tiny import vocabulary
from ea_jax.tiny.probes import SEEDS, key, probes_for

CONCEPTS = ["soccer ball", "nude", "kiss", "sketch", "Santa Claus", "on"]


def asked(probes, metric):
    return [(p, dict(p.questions)[metric]) for p in probes if metric in dict(p.questions)]


@pytest.mark.parametrize("word", CONCEPTS)
def test_every_metric_is_asked_of_as_many_pictures(word):
    probes = probes_for(word, pictures=20)
    for metric in ("Acc_e", "Acc_g", "Acc_ir", "Acc_near"):
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
    for probe, answers in asked(probes_for(word, pictures=100, unseen=("cat", "pizza")), "Acc_ir"):
        assert not answers & barred
        assert word not in probe.prompt.split()


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
