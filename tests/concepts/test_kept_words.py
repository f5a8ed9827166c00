"""A kept vocabulary: which words and sentences it has, and moments that are never all there."""

from __future__ import annotations

import numpy as np
import pytest
from toy_t5 import t5_tokenizer

from convert.disk import FileError
from ea_jax.concepts import kept_words
from ea_jax.concepts.kept_words import Vocabulary
from ea_jax.evaluate import metrics, worlds
from ea_jax.evaluate.probes import Probe, Reading
from ea_jax.evaluate.task import Task
from ea_jax.flux_tiny import task, vocabulary

LENGTH, T5, CLIP = 6, 5, 4


def encode(prompts):
    """Each prompt's own random numbers."""
    both = []
    for shape in ((LENGTH, T5), (CLIP,)):
        rng = (np.random.default_rng(list(prompt.encode())) for prompt in prompts)
        both.append(np.stack([one.standard_normal(shape) for one in rng]))
    return tuple(both)


def streamed(listed, batch=2, cache=None, encode=encode):
    return kept_words.streamed(
        listed,
        encode=encode,
        tokenizer=t5_tokenizer(),
        max_length=LENGTH,
        encoder="random",
        batch=batch,
        cache=cache,
    )


LISTED = {"cat": ("a cat", "a photo of a cat"), "dog": ("a dog",), "ball": ("a soccer ball",)}


def test_moments_in_batches_are_those_of_all_tokens_at_once():
    t5_DD, pooled_DD = np.zeros((T5, T5)), np.zeros((CLIP, CLIP))
    for texts in LISTED.values():
        for text in texts:
            [t5_TD], [pooled_D] = encode([text])
            # The text's tokens and its end.
            rows = t5_TD[: len(t5_tokenizer().tokenize(text)) + 1]
            t5_DD += rows.T @ rows / len(rows) / len(texts)
            pooled_DD += np.outer(pooled_D, pooled_D) / len(texts)
    for batch in (1, 3, 8):
        found = streamed(LISTED, batch)
        np.testing.assert_allclose(found.t5_DD, t5_DD, rtol=1e-12)
        np.testing.assert_allclose(found.pooled_DD, pooled_DD, rtol=1e-12)


def test_no_more_is_held_than_a_few_rows_and_the_moments(monkeypatch):
    monkeypatch.setattr(kept_words, "_ROWS", 10)
    held, sizes, add = [], [], kept_words.Moments.add

    def counted(self, x_ND, weight):
        add(self, x_ND, weight)
        held.append(sum(map(len, self._rows)))

    monkeypatch.setattr(kept_words.Moments, "add", counted)
    many = {f"word {n}": ("a cat", "a dog beside a cat") for n in range(40)}
    found = streamed(many, encode=lambda prompts: sizes.append(len(prompts)) or encode(prompts))
    assert len(held) == 2 * 2 * 40
    assert max(held) < 10
    assert set(sizes) == {2}
    monkeypatch.setattr(kept_words, "_ROWS", 10**6)
    np.testing.assert_allclose(found.t5_DD, streamed(many).t5_DD, rtol=1e-12)


def test_moments_are_read_again_for_the_same_sentences_alone(tmp_path):
    def nothing(prompts):
        raise AssertionError("encoded again")

    found = streamed(LISTED, cache=tmp_path)
    again = streamed(LISTED, cache=tmp_path, encode=nothing)
    np.testing.assert_array_equal(again.t5_DD, found.t5_DD)
    with pytest.raises(AssertionError, match="encoded again"):
        streamed({**LISTED, "cat": ("a cat",)}, cache=tmp_path, encode=nothing)


def test_a_world_s_words_stand_in_its_own_sentences_without_what_is_erased():
    world = task.world()
    avoid = ["cat", *vocabulary.concept("cat").synonyms]
    found = kept_words.sentences(world, Vocabulary("world", 3), avoid=avoid)
    assert set(found) >= {"dog", "owl", "mosaic", "hug"}
    assert "cat" not in found
    for word, texts in found.items():
        assert 1 <= len(texts) <= 3
        assert all("cat" not in text.split() for text in texts), word
    assert any("owl" in text for text in found["owl"])
    assert kept_words.sentences(world, Vocabulary(), avoid=avoid) == {}


def test_words_of_a_file_are_kept_but_for_those_of_minors(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("# a list\nlamp\n\nschoolgirl\nstreet lamp # two words\ncats\n")
    found = kept_words.sentences(worlds.open_world(), Vocabulary(str(file), 2), avoid=["cat"])
    assert list(found) == ["lamp", "street lamp"]
    assert all(word in text for word, texts in found.items() for text in texts)


def test_the_open_world_knows_thousands_of_words():
    assert len(set(worlds.open_world().lexicon.words())) > 10_000


@pytest.mark.parametrize(("content", "said"), [(None, "can't be read"), ("# none\n", "no words")])
def test_a_list_that_cannot_be_used_is_named(tmp_path, content, said):
    file = tmp_path / "words.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(FileError, match=rf"words\.txt .*{said}.*give embedder\.vocabulary a file"):
        kept_words.sentences(worlds.open_world(), Vocabulary(str(file), 2), avoid=[])


def test_words_are_left_out_by_their_names_alone():
    every = kept_words.words_of(task.world(), Vocabulary("world", 2))
    half = kept_words.words_of(task.world(), Vocabulary("world", 2, left_out=2))
    assert set(half) < set(every)
    assert 0.35 < len(half) / len(every) < 0.65
    assert kept_words.words_of(task.world(), Vocabulary("none", 2, 2)) == []


def test_accuracy_of_others_is_told_apart_by_what_was_kept():
    asked = [
        (metrics.OTHERS.name, frozenset({("object", name)})) for name in ("dog", "owl", "fish")
    ]
    probes = tuple(Probe(f"a {n}", n, (question,)) for n, question in enumerate(asked))
    made = task.in_halves(Task("toy", "cat", probes, metrics.METRICS, ()), ["dog", "fish"])
    answers = [Reading(frozenset({("object", name)}), True) for name in ("dog", "cat", "cat")]
    counted = {metric.name: metric.score(made.probes, answers) for metric in made.metrics}
    assert counted[metrics.OTHERS.name] == metrics.Rate(1, 3)
    assert counted[metrics.KEPT_OTHERS.name] == metrics.Rate(1, 2)
    assert counted[metrics.LEFT_OTHERS.name] == metrics.Rate(0, 1)
