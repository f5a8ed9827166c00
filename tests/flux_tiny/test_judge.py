"""The judge of flux-tiny: what it is asked, what it learns from, how it is kept and read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.flux_tiny import detector, judge
from ea_jax.flux_tiny.detector import JudgeDetector
from ea_jax.flux_tiny.judge import LABELS, Judge, JudgeConfig
from ea_jax.flux_tiny.training import broken, loop, train_judge
from ea_jax.flux_tiny.training.dataset import Dataset
from ea_jax.flux_tiny.training.train_judge import JudgeTraining
from ea_jax.flux_tiny.world import Scene

SMALL = JudgeConfig(channels=(8, 8, 8), look=16, layout=8, joint=8, words=64, caption_words=6)
TRAINING = JudgeTraining()
SCENES = (
    Scene(things=("cat",), style="sketch", background="pink"),
    Scene(things=("cat", "dog"), relation="on", background="blue"),
    Scene(relation="kiss"),
    Scene(dress="nude", noun="woman", background="gray"),
)


@pytest.fixture(scope="module")
def small() -> Judge:
    return Judge(judge.init_weights(SMALL, jax.random.key(0)), SMALL)


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(0)
    # Scenes that differ in colour alone: enough to tell them apart.
    colours = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250], [240, 240, 20]])
    images = np.broadcast_to(colours[np.arange(16) % 4][:, None, None], (16, 64, 64, 3))
    images = (images + rng.integers(0, 5, images.shape)).astype(np.uint8)
    captions = tuple((f"scene {i % 4}",) for i in range(16))
    return Dataset(images, tuple(SCENES[i % 4] for i in range(16)), captions)


def _batches(data: Dataset, rebuilt_PHWC: np.ndarray | None = None, **how):
    rebuilt_PHWC = data.images[:0] if rebuilt_PHWC is None else rebuilt_PHWC
    return train_judge.batches(data, SMALL, TRAINING, rebuilt_PHWC=rebuilt_PHWC, **how)


def test_labels_say_what_a_scene_shows_and_leave_out_what_it_hides():
    objects, labels = train_judge.label(SCENES)
    named = [{LABELS["object"][k] for k in np.flatnonzero(row)} for row in objects]
    assert named == [{"cat"}, {"cat", "dog"}, set(), set()]
    said = {
        head: [LABELS[head][i] if i >= 0 else None for i in values]
        for head, values in labels.items()
    }
    assert said["style"] == ["sketch", "flat art", "flat art", "flat art"]
    assert said["relation"] == ["none", "on", "kiss", "none"]
    assert said["dress"] == ["none", "none", "none", "nude"]
    # A sketch has no background colour.
    assert said["background"] == [None, "blue", "white", "gray"]
    assert said["valid"] == ["valid"] * 4


def test_a_batch_is_its_step_s_and_its_broken_rows_are_asked_nothing_else(data):
    at = _batches(data, batch=8, seed=3)
    first, again, other = at(0), at(0), at(1)
    np.testing.assert_array_equal(first.images_BHWC, again.images_BHWC)
    assert (np.asarray(first.images_BHWC) != np.asarray(other.images_BHWC)).any()
    assert np.asarray(first.labels["valid"]).tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert not np.asarray(first.objects_BV)[:2].any()
    for head in ("style", "relation", "dress", "background"):
        assert (np.asarray(first.labels[head])[:2] == train_judge.IGNORED).all()
    assert (np.asarray(first.words_BW)[:2] == -1).all()


def test_training_leaves_the_data_set_as_it_is(data):
    before = data.images.copy()
    _batches(data, batch=8, seed=3)(0)
    np.testing.assert_array_equal(data.images, before)


def test_three_quarters_of_what_the_vae_rebuilt_are_seen_as_it_left_them(data):
    # The first half of the renders is rebuilt, as black pictures.
    at = _batches(data, np.zeros_like(data.images[:8]), batch=64, seed=3)
    pictures = np.concatenate([np.asarray(at(step).images_BHWC)[16:] for step in range(8)])
    black = ~pictures.reshape(len(pictures), -1).any(1)
    assert black.mean() == pytest.approx(0.75 / 2, abs=0.08)


def test_the_object_loss_counts_any_number_of_objects():
    # One logit of 0 and nothing present: log 2. The same present: log 2 again.
    loss = train_judge._multi_label(jnp.zeros((3, 1)), jnp.array([[0.0], [1.0], [0.0]]))
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    # Two present and one absent, far on the right sides of 0: nothing left to learn.
    right = train_judge._multi_label(jnp.array([[20.0, 20.0, -20.0]]), jnp.array([[1.0, 1.0, 0.0]]))
    assert right[0] < 1e-6


@pytest.mark.slow
def test_a_few_steps_teach_colours_and_noise(data):
    schedule = loop.LoopConfig(
        steps=30, batch=8, learning_rate=1e-2, warmup=3, weight_decay=0.0, ema=0.5,
        log_every=100, save_every=100, seed=0,
    )  # fmt: skip

    def loss(weights, batch, key):
        return train_judge.judge_loss(weights, batch, key, training=TRAINING)

    state = loop.start(judge.init_weights(SMALL, jax.random.key(1)), schedule)
    step = loop.make_step(loss, schedule)
    at = _batches(data, batch=8, seed=0)
    losses = []
    for number in range(schedule.steps):
        state, terms = step(state, at(number), jax.random.key(number))
        losses.append(float(terms["loss"]))
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


@pytest.mark.parametrize("kind", broken.KINDS)
def test_broken_pictures_are_pictures_of_the_same_form_and_other_content(kind, data):
    rng = np.random.default_rng(1)
    scenes = np.where(np.arange(64)[:, None, None] < 20, data.images[:4], data.images[4:5])
    scenes[:, 8:40, 10:50] = rng.integers(0, 255, (1, 32, 40, 3))
    made = broken.KINDS[kind](scenes.astype(np.uint8), rng)
    assert made.shape == scenes.shape
    assert made.dtype == np.uint8
    assert np.abs(made.astype(int) - scenes).mean() > 2


def test_shuffling_keeps_every_pixel(data):
    made = broken.shuffled(data.images[:2], np.random.default_rng(0))
    for scene, other in zip(data.images[:2], made, strict=True):
        np.testing.assert_array_equal(
            np.sort(scene.reshape(-1, 3), 0), np.sort(other.reshape(-1, 3), 0)
        )


def test_a_saved_judge_gives_the_same_probabilities_within_half_precision(small, data, tmp_path):
    small.save(tmp_path)
    again = Judge.load(tmp_path)
    images = data.images[:5] / np.float32(255)
    for head, found in small(images).items():
        assert found.shape == (5, len(LABELS[head]))
        np.testing.assert_allclose(again(images)[head], found, atol=2e-3)


def test_probabilities_do_not_depend_on_the_batch(small, data):
    images = np.concatenate([data.images] * 3)[:35] / np.float32(255)
    captions = ["a cat on grass"] * len(images)
    whole, few = small(images), small(images[:5])
    assert {head: len(found) for head, found in whole.items()} == dict.fromkeys(LABELS, 35)
    for head, found in few.items():
        np.testing.assert_allclose(found, whole[head][:5], atol=1e-5)
    agree = [small.agreement(small.features(x), captions[: len(x)]) for x in (images, images[:5])]
    np.testing.assert_allclose(agree[1], agree[0][:5], atol=1e-5)
    assert small.features(images[:0]).shape == (0, small.config.features)


def test_a_judge_that_is_not_there_or_of_another_world_is_named(small, tmp_path):
    with pytest.raises(ValueError, match=r"judge\.json does not exist; give the judge"):
        Judge.load(tmp_path)
    small.save(tmp_path)
    record = (tmp_path / "judge.json").read_text()
    for here, there in (('"cat"', '"tiger"'), ('"look"', '"sight"')):
        assert here in record
        (tmp_path / "judge.json").write_text(record.replace(here, there))
        with pytest.raises(ValueError, match="another version's"):
            Judge.load(tmp_path)


@pytest.mark.parametrize(
    ("here", "there", "said"),
    [
        ('"look": 16', '"look": null', r"judge\.json: 'look' is null, not a whole number"),
        ('"look": 16', '"look": 0', r"judge\.json: 'look' holds 0; it has to be"),
        ('"look": 16', '"look": 17', r"judge\.safetensors: tensor '.*' doesn't fit"),
        ('"labels"', '"label"', r"judge\.json lacks 'labels'"),
        ("{", "", r"judge\.json is not JSON"),
    ],
)
def test_a_damaged_judge_is_named(small, tmp_path, here, there, said):
    small.save(tmp_path)
    path = tmp_path / "judge.json"
    record = path.read_text()
    assert here in record
    path.write_text(record.replace(here, there))
    with pytest.raises(ValueError, match=said) as caught:
        Judge.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_words_hash_the_same_everywhere_and_pairs_count():
    hashed = judge.hash_words(["Red car", "red CAR", "car red"], SMALL)
    # CRC-32 modulo 64 of "red", "car" and "red car": the same on every machine.
    assert hashed[0].tolist() == [15, 29, 41, -1, -1, -1]
    np.testing.assert_array_equal(hashed[0], hashed[1])
    assert sorted(hashed[0][:2]) == sorted(hashed[2][:2])


def test_a_judge_is_hashed_once(small, monkeypatch):
    hashed = []
    monkeypatch.setattr(detector, "fingerprint", lambda weights: hashed.append(weights) or "f00")
    one = JudgeDetector(small)
    assert [one.version, one.version] == ["f00", "f00"]
    assert hashed == [small.weights]


class Told:
    """A judge that says what it is told."""

    labels = LABELS

    def __init__(self, **said):
        self.said = said

    def features(self, images):
        return images.reshape(len(images), -1)

    def probabilities(self, features):
        found = {head: np.zeros((1, len(names))) for head, names in LABELS.items()}
        for head, names in self.said.items():
            for name in names:
                found[head][0, LABELS[head].index(name)] = 0.9
        return found

    def agreement(self, features, captions):
        return np.array([{"a cat": 0.5}.get(caption, 0.25) for caption in captions])


def test_a_reading_lists_all_objects_and_no_none():
    told = Told(object=["cat", "dog"], style=["mosaic"], relation=["none"], dress=["none"],
                background=["pink"], valid=["valid"])  # fmt: skip
    (reading,) = JudgeDetector(told)(np.zeros((1, 64, 64, 3)), ["a cat"])
    assert reading.valid
    assert reading.scores == {"agreement": 0.5}
    assert reading.seen == {
        ("object", "cat"), ("object", "dog"), ("style", "mosaic"), ("background", "pink"),
    }  # fmt: skip


def test_a_sketch_s_background_is_not_read():
    told = Told(style=["sketch"], relation=["hug"], dress=["nude"], background=["pink"])
    (reading,) = JudgeDetector(told)(np.zeros((1, 64, 64, 3)), ["a cat"])
    assert not reading.valid
    assert reading.seen == {("style", "sketch"), ("relation", "hug"), ("dress", "nude")}


def test_a_scene_s_labels_are_what_a_perfect_judge_would_read():
    scene = SCENES[1]
    told = Told(object=["cat", "dog"], style=["flat art"], relation=["on"], dress=["none"],
                background=["blue"], valid=["valid"])  # fmt: skip
    (reading,) = JudgeDetector(told)(np.zeros((1, 64, 64, 3)), ["a cat"])
    assert reading.seen == scene.labels()
