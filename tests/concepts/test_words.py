"""Synonyms and irrelevant words: sources, their order, and what may not be used."""

from __future__ import annotations

import re

import nltk
import pytest

from ea_jax.concepts import irrelevant, replies, synonyms, wordnet


@pytest.fixture(scope="module")
def reader(wordnet_reader):
    return wordnet_reader


# The paper's Table 5, as its template answers.
TABLE_5 = """\
no_relation: [("cloud", 0.1), ("tree", 0.2), ("carpet", 0.1)]
far: [("hot", 0.3), ("color", 0.4), ("wet", 0.3)]
mid: [("image", 0.5), ("figure", 0.6), ("portrait", 0.5)]
"""
WORDS = {
    "no_relation": [["cloud", 0.1], ["tree", 0.2], ["carpet", 0.1]],
    "far": [["hot", 0.3], ["color", 0.4], ["wet", 0.3]],
    "mid": [["image", 0.5], ["figure", 0.6], ["portrait", 0.5]],
}


@pytest.mark.parametrize(
    "reply",
    [
        TABLE_5,
        TABLE_5.replace('"', "'"),
        TABLE_5.replace("(", "[").replace(")", "]"),
        TABLE_5.replace(")]", "),]"),
        TABLE_5.replace("no_relation:", "**No relation**:").replace(":", " ="),
        f"Here's what I found:\n```python\n{TABLE_5}```\nIt isn't much.",
        "{" + re.sub(r"(\w+): (.*)\n", r'"\1": \2, ', TABLE_5) + "}",
        "{" + re.sub(r"(\w+): (.*)\n", r"'\1': \2, ", TABLE_5) + "}",
    ],
)
def test_lists_are_read_in_json_and_in_pythons_notation(reply):
    read = {name: replies.named_list(reply, name) for name in irrelevant.CLASSES}
    assert read == WORDS


def test_quotes_and_brackets_inside_words_are_left_alone():
    assert replies.first_list("""['it\\'s', "a (b) [c]", 'say "x"']""") == [
        "it's",
        "a (b) [c]",
        'say "x"',
    ]


@pytest.mark.parametrize(
    "reply", ["", "none", "[1, 2", "[__import__('os')]", "['a' 'b']", "[" * 9999]
)
def test_what_is_no_list_is_refused(reply):
    with pytest.raises(ValueError, match=r"no list|cut off|not JSON"):
        replies.first_list(reply)


def test_words_of_the_config_may_have_scores_or_none():
    words = irrelevant.from_lists({**WORDS, "far": ("hot", "very wet")}, "nude")
    assert words.far == (("hot", None), ("very wet", None))
    assert words.mid[1] == ("figure", 0.6)
    assert words.classes[0] == ("cloud", "tree", "carpet")
    assert words.source == "config"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"far": []}, "class 'far' of irrelevant words is empty"),
        ({"far": "hot"}, "class 'far' of irrelevant words is empty"),
        ({"near": ["a"]}, "class 'near' is unknown"),
        ({"far": ["hot", "Tree"]}, "irrelevant word 'Tree' is given twice"),
        ({"far": ["hot", "nude art"]}, "'nude art' is the concept 'nude'"),
        ({"far": ["hot", "Naked"]}, "'Naked' is the concept 'nude', a synonym of it, or held out"),
        ({"far": [["hot", 1.5]]}, "score 1.5 of 'hot' in class 'far' is not in"),
        ({"far": [" "]}, "' ' in class 'far' is no word"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(change, message):
    with pytest.raises(ValueError, match=message):
        irrelevant.from_lists({**WORDS, **change}, "nude", avoid=("naked",))


def test_the_first_source_that_has_synonyms_is_used_and_named():
    sources = {"wordnet": lambda word: [], "endpoint": lambda word: ["x_y", "Nude", " x y "]}
    sources["config"] = lambda word: ["z"]
    assert synonyms.find("nude", sources) == synonyms.Synonyms(("x y",), "endpoint")


def test_a_word_may_have_no_synonyms():
    found = synonyms.find("Bruce Lee", {"config": lambda word: [], "wordnet": lambda word: []})
    assert found == synonyms.Synonyms((), "none")


def test_what_holds_the_word_is_no_synonym_of_it():
    """Erasing the word erases it as well."""
    given = {"wordnet": lambda word: ["Vincent van Gogh", "true-cat", "Dutch painter"]}
    assert synonyms.find("Van Gogh", given).words == ("true-cat", "Dutch painter")
    assert synonyms.find("cat", given).words == ("Vincent van Gogh", "Dutch painter")


def test_the_list_of_common_words_has_each_once():
    words = irrelevant.common_words()
    assert len(words) == len(set(words)) > 500
    assert {"cloud", "honesty", "beautiful", "industrious"} <= set(words)


def test_an_absent_wordnet_names_the_folder_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    lazy = nltk.corpus.util.LazyCorpusLoader(
        "wordnet", nltk.corpus.reader.WordNetCorpusReader, None
    )
    monkeypatch.setattr(nltk.corpus, "wordnet", lazy)
    text = f"WordNet is not in {tmp_path}, or damaged there; run `python -m nltk.downloader"
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        wordnet.load(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="WordNet is not in NLTK's data folders"):
        wordnet.load()
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "wordnet.zip").write_bytes(b"half a download")
    with pytest.raises(ValueError, match="damaged there"):
        wordnet.load(tmp_path)


def test_one_sense_gives_synonyms_without_the_word_itself(reader):
    assert wordnet.synonyms(reader, "cat") == ["true cat"]
    assert "guy" in wordnet.synonyms(reader, "cat", sense="all")
    assert wordnet.synonyms(reader, "nude", sense="bare.s.01") == ["bare", "au naturel", "naked"]
    assert "Father Christmas" in wordnet.synonyms(reader, "Santa Claus")
    assert wordnet.synonyms(reader, "soccer ball") == []


def test_an_unknown_sense_is_named(reader):
    with pytest.raises(ValueError, match=r"concept\.sense = 'nude.n.99' is not in WordNet"):
        wordnet.synonyms(reader, "nude", sense="nude.n.99")


def test_adjectives_are_compared_by_their_nouns(reader):
    assert {noun.pos() for noun in wordnet.noun_senses(reader, "industrious")} == {"n"}
    diligent, industrious, stone = (
        wordnet.noun_senses(reader, word) for word in ("diligent", "industrious", "stone")
    )
    near = wordnet.similarity(diligent, industrious)
    assert near > wordnet.similarity(stone, industrious)


def test_wordnets_classes_are_ordered_by_similarity(reader):
    words = irrelevant.from_wordnet(reader, "cat", count=5)
    scores = [[score for _, score in getattr(words, name)] for name in irrelevant.CLASSES]
    assert max(scores[0]) <= min(scores[1]) <= max(scores[1]) <= min(scores[2])
    assert words.source == "wordnet"
    assert words == irrelevant.from_wordnet(reader, "cat", count=5)


def test_words_to_avoid_and_near_ones_are_left_out(reader):
    among = ["dog", "cat", "feline", "stone", "idea", "water", "honesty", "chair"]
    words = irrelevant.from_wordnet(reader, "cat", count=1, avoid=("stone",), among=[*among] * 3)
    chosen = {word for part in words.classes for word in part}
    assert not chosen & {"cat", "feline", "stone"}


def test_a_phrase_is_compared_by_its_last_word(reader):
    words = irrelevant.from_wordnet(reader, "old cat", count=1)
    assert words == irrelevant.from_wordnet(reader, "cat", count=1)


def test_an_unknown_concept_asks_for_words_in_the_config(reader):
    with pytest.raises(
        ValueError, match=r"WordNet doesn't know 'Xyzzy'; give concept\.no_relation"
    ):
        irrelevant.from_wordnet(reader, "Xyzzy")
    with pytest.raises(ValueError, match="words are too few for 3 in class 'no_relation'"):
        irrelevant.from_wordnet(reader, "cat", among=["stone", "idea"])
