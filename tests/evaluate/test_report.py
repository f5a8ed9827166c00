"""Reports: files that open, numbers that are those counted."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ea_jax.evaluate import report
from ea_jax.evaluate.metrics import CONCEPT, SYNONYMS, Rate
from ea_jax.evaluate.results import Results


def test_grid_and_maps_are_pictures(tmp_path):
    rng = np.random.default_rng(0)
    row = report.Comparison("a ball", *rng.random((2, 3, 8, 8, 3)))
    report.before_after_grid(tmp_path / "grid.png", [row, row])
    report.attention_maps(
        tmp_path / "attention.png",
        {"before": rng.random((8, 8, 3)), "after": rng.random((8, 8, 3))},
        {"before": rng.random((4, 4)), "after": rng.random((4, 4))},
        concept="ball",
        prompt="a ball",
    )
    for name in ("grid.png", "attention.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200
    assert sorted(p.name for p in tmp_path.iterdir()) == ["attention.png", "grid.png"]


def test_pixelated_keeps_means_and_drops_detail():
    image = np.zeros((1, 32, 32, 3))
    image[:, ::2] = 1.0
    out = report.pixelated(image, cells=4)
    np.testing.assert_allclose(out, 0.5)


def test_table_holds_base_beside_erased_and_leaves_out_what_was_not_asked():
    base = {"Acc_e": Rate(50, 50), "Acc_g": Rate(0, 0)}
    erased = {"Acc_e": Rate(5, 50), "Acc_g": Rate(0, 0)}
    table = report.metrics_table(Results((CONCEPT, SYNONYMS), "judge", base, erased))
    assert "| Acc_e | 100.0 | 10.0 | 4 to 21 | 10% | 5 / 50 | the concept is still there" in table
    assert "Acc_g" not in table
