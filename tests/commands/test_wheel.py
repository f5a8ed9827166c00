"""The package works from its wheel, away from the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, as pip would lay it out."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "site")
    return folder / "site"


def test_configs_settings_and_conversion_come_from_the_wheel(installed: Path) -> None:
    program = f"""
import configs.nudity, convert.diffusers, ea_jax.settings
made = ea_jax.settings.from_config(configs.nudity.get_config("tiny"))
for module in (configs.nudity, convert.diffusers, ea_jax.settings):
    assert module.__file__.startswith({str(installed)!r}), module.__file__
print(made.concept.word)
"""
    # -P: not the folder this runs in; the wheel comes before the checkout on the path.
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=installed.parent,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "nude\n"


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(installed: Path) -> None:
    packed = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    listed = subprocess.run(
        ["git", "ls-files", "ea_jax", "configs", "convert"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    missing = {Path(name) for name in listed.stdout.splitlines()} - packed
    assert not missing
    tops = {path.parts[0] for path in packed}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "ea_jax",
        "configs",
        "convert",
    }
