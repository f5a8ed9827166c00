"""Which words a run keeps beside its prompts: none that it erases, none that stands for it."""

from __future__ import annotations

from ea_jax.concepts import choose
from ea_jax.concepts.kept_words import Vocabulary
from ea_jax.erase import kept_sentences
from ea_jax.flux_tiny import task, vocabulary
from ea_jax.methods.method import Needs


def words_of(name: str) -> choose.Words:
    concept = vocabulary.concept(name)
    entry = {
        "word": name,
        "synonyms": [concept.trained],
        "near": [*concept.held_out, concept.near],
    }
    return choose.Words((), (), (), (), {"words": [entry]})


def test_a_run_s_vocabulary_is_without_its_word_its_synonyms_and_its_nearest() -> None:
    needs = Needs(vocabulary=Vocabulary("world", 2))
    kept, words = kept_sentences(task.world(), words_of("soccer ball"), needs)
    concept = vocabulary.concept("soccer ball")
    assert words.record["kept_words"] == list(kept)
    assert len(kept) > 90
    texts = [text for made in kept.values() for text in made]
    for name in ("soccer ball", concept.near, *concept.synonyms):
        assert name not in kept
        assert not any(f" {name}" in text for text in texts)


def test_a_run_without_a_vocabulary_keeps_no_words_and_says_nothing_of_them() -> None:
    words = words_of("cat")
    assert kept_sentences(task.world(), words, Needs()) == ({}, words)
