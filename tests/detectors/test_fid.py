"""FID: what torch-fidelity is asked for, what is said without it, and, where it is, its answer."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from places import ROOT

from ea_jax.detectors import fid
from ea_jax.exam import distances


def save(folder, *, seed=0, count=3, sides=(16,)):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for index in range(count):
        side = sides[index % len(sides)]
        pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def folders(tmp_path):
    return save(tmp_path / "a"), save(tmp_path / "b", seed=1)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package of its name that answers with a number, and writes down what it was asked."""
    package = tmp_path / "site" / "torch_fidelity.py"
    package.parent.mkdir()
    answer = tmp_path / "answer"
    answer.write_text("12.5")
    asked = tmp_path / "asked.json"
    package.write_text(
        "import json, pathlib\n"
        "def calculate_metrics(**options):\n"
        f"    pathlib.Path({str(asked)!r}).write_text(json.dumps(options))\n"
        f"    said = pathlib.Path({str(answer)!r}).read_text()\n"
        "    return {'frechet_inception_distance': float(said)}\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "torch_fidelity", raising=False)
    yield answer, asked
    sys.modules.pop("torch_fidelity", None)


def test_torch_fidelity_is_asked_for_fid_alone_of_both_folders(folders, stand_in, tmp_path):
    (tmp_path / "w.pth").touch()
    assert fid.measure(*folders, weights=tmp_path / "w.pth", side=8, batch=2) == 12.5
    asked = json.loads(stand_in[1].read_text())
    assert (asked["input1"], asked["input2"]) == tuple(map(str, folders))
    assert asked["feature_extractor_weights_path"] == str(tmp_path / "w.pth")
    assert (asked["samples_resize_and_crop"], asked["batch_size"]) == (8, 2)
    assert (asked["fid"], asked["cache"], asked["cuda"]) == (True, False, False)
    assert "isc" not in asked


def test_few_pictures_are_said_to_be_few(folders, stand_in, caplog):
    fid.measure(*folders)
    assert "holds 3 pictures; with fewer than 2048, FID is too high" in caplog.text


def test_without_torch_fidelity_one_line_names_the_extra(folders, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'ea-jax\[fid\]'"):
        fid.measure(*folders)


def test_torch_fidelity_is_not_imported_before_it_is_asked_for():
    program = "import sys, ea_jax.detectors.fid; sys.exit('torch_fidelity' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda a: [path.unlink() for path in a.iterdir()], "a holds 0 PNG or JPEG pictures; FID"),
        (lambda a: [(a / f"{i}.png").unlink() for i in range(2)], "a holds 1 PNG or JPEG"),
        (lambda a: a.rename(a.parent / "c"), "a is no folder; give one of PNG"),
        (lambda a: (a / "1.png").write_bytes(b"no picture"), r"1\.png can't be read"),
        (
            lambda a: Image.new("RGB", (9, 8)).save(a / "2.png"),
            r"several sizes \(0.png: 16 x 16, 2.png: 9 x 8\); give a side",
        ),
    ],
)
def test_folders_that_cannot_be_measured_are_one_line(folders, stand_in, spoil, said):
    spoil(folders[0])
    with pytest.raises(ValueError, match=said):
        fid.measure(*folders)
    assert not stand_in[1].exists()


def test_what_goes_wrong_in_torch_fidelity_is_one_line(folders, stand_in, tmp_path):
    answer, _ = stand_in
    answer.write_text("nan")
    with pytest.raises(ValueError, match="FID is nan; check the weights"):
        fid.measure(*folders)
    answer.write_text("no number")
    with pytest.raises(ValueError, match=r"measured nothing \(ValueError: could not convert"):
        fid.measure(*folders)
    with pytest.raises(ValueError, match=r"w\.pth is no file; give torch-fidelity's weights"):
        fid.measure(*folders, weights=tmp_path / "w.pth")


class Network:
    """Takes what torch-fidelity's extractor takes: bytes [B, 3, H, W] as a tensor."""

    def requires_grad_(self, asked):
        assert asked is False
        return self

    def eval(self):
        return self

    def state_dict(self):
        torch = pytest.importorskip("torch")
        return {"weight": torch.ones(2), "batches": torch.tensor(3)}

    def __call__(self, pixels_BCHW):
        assert str(pixels_BCHW.dtype) == "torch.uint8"
        return (pixels_BCHW.float().mean((2, 3)),)


def test_the_network_sees_a_picture_as_bytes_in_the_order_of_its_colours():
    pytest.importorskip("torch")
    network = fid.Inception(Network())
    images = np.zeros((2, 4, 5, 3))
    images[0, ..., 2], images[1, ..., 0] = 1.0, 0.5
    found = network.features(images)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[0, 0, 255], [128, 0, 0]])
    assert network.version == fid.Inception(Network()).version


def test_reference_pictures_are_resized_and_their_middle_is_cut_out(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = fid.read([tmp_path / "wide.png"], 8)
    assert found.shape == (1, 8, 8, 3)
    assert (found == 1).all()


@pytest.mark.filterwarnings("ignore")
def test_hidden_files_are_no_pictures(folders):
    before = fid.check(folders[0])[0]
    (folders[0] / "._00.png").write_bytes(b"of macOS")
    assert fid.check(folders[0])[0] == before


def test_the_real_torch_fidelity_finds_the_same_pictures_nearest(folders, tmp_path):
    """With random weights: the call is proved, not the published network."""
    pytest.importorskip("torch_fidelity", reason="needs the extra fid", exc_type=ImportError)
    torch = pytest.importorskip("torch")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        # The class only loads weights; its random ones are what is wanted.
        patch.setattr(torch, "load", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
        made = FeatureExtractorInceptionV3("any", ["2048"], feature_extractor_weights_path="none")
    torch.save(made.state_dict(), tmp_path / "w.pth")
    a, b = folders
    near, far = (fid.measure(a, other, weights=tmp_path / "w.pth", batch=2) for other in (a, b))
    assert abs(near) < 1e-3 * far
    network = fid.Inception.load(tmp_path / "w.pth")
    one_PF, other_PF = (network.features(fid.read(fid.check(x)[0], 16)) for x in (a, b))
    assert distances.frechet(one_PF, other_PF) == pytest.approx(far, rel=1e-4)
