"""Shapes of a run are those of the run itself; and what is compiled from them for another chip."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import jax
import pytest
from places import ROOT

from configs import soccer
from ea_jax import settings
from ea_jax.costs import aot, targets
from ea_jax.costs.shapes import shapes
from ea_jax.erase import prepared
from ea_jax.evaluate import worlds
from ea_jax.methods import registry
from ea_jax.methods.ready import initial_state
from ea_jax.runtime.mesh import put_rows


@pytest.mark.parametrize("preset", [pytest.param("paper", marks=pytest.mark.slow), "robust"])
def test_they_are_those_of_the_arrays_that_the_steps_are_given(dev_folder, tmp_path, preset):
    config = soccer.get_config(f"tiny+{preset}")
    config.model.path = str(dev_folder)
    config.model.text_length = 64
    config.concept.max_tokens = 12
    config.sample.steps = 2
    config.data.cache = str(tmp_path)
    config.data.inversions = 0
    config.mesh.fsdp = 2  # on one device a batch stays in host memory, without a sharding
    run = settings.from_config(config)
    entry = registry.chosen(run)
    model, ready, _ = prepared(run, entry, (), worlds.open_world())
    side = config.model.resolution
    given = shapes(
        run,
        model.pipeline.transformer_config,
        latent=model.pipeline.latent_shape(side, side),
        mesh=model.mesh,
    )

    def same(found, real):
        facts = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)  # noqa: E731
        assert jax.tree.structure(found) == jax.tree.structure(real)
        assert facts(found) == facts(real)

    method = entry.make(ready)
    same(given.base, model.weights)
    same(given.state, initial_state(method, run, model.mesh))
    assert list(given.batches) == [level.name for level in method.levels] == ["lower", "upper"]
    for level in method.levels:
        same(given.batches[level.name], put_rows(model.mesh, level.batch(0)))
    assert given.forward.grid == model.forward.grid


def test_a_roofline_is_the_later_of_arithmetic_and_memory():
    target = targets.TARGETS["v5e-4"]
    busy = aot.Report("arithmetic", flops=int(4 * 197e12 * 2), traffic=int(819e9))
    assert busy.seconds(target) == pytest.approx(2)
    assert busy.seconds(target, mfu=0.5) == pytest.approx(4)
    assert aot.Report("memory", flops=0, traffic=int(3 * 819e9)).seconds(target) == pytest.approx(3)


def test_the_verdict_says_by_how_much_the_largest_program_misses():
    target = targets.TARGETS["a100"]
    small = aot.Report("small", arguments=10 * targets.GIB, temporaries=targets.GIB)
    assert aot.verdict([small], target) == "fits: 11.00 of 35.48 GiB a device"
    large = aot.Report("large", arguments=37 * targets.GIB)
    assert aot.verdict([small, large], target) == "does not fit: 1.52 GiB a device too much"
    refused = aot.Report("refused", missing=7.27 * targets.GIB)
    assert aot.verdict([small, refused], target) == "does not fit: 7.27 GiB a device too much"


def test_a_tpu_compilers_message_is_read():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (22.85G) exceeds available HBM (15.75G)."
    )
    assert aot._missing(message) == pytest.approx(7.10 * 2**30)
    assert aot._missing("INTERNAL: another thing") is None


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is absent: pip install 'ea-jax[aot]'"
)
def test_flux_tinys_pair_is_compiled_for_a_tpu():
    done = subprocess.run(
        [
            sys.executable, "-m", "ea_jax.costs.aot", f"--config={ROOT / 'configs' / 'nudity.py'}",
            "--topology=v5e-1",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "v5e-1: fits: 0.0" in done.stdout


def test_a_compiler_that_is_absent_is_named(monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    config = settings.from_config(soccer.get_config())
    with pytest.raises(ValueError, match=r"libtpu is not installed; pip install 'ea-jax\[aot\]'"):
        targets.mesh_for(targets.TARGETS["v5e-8"], config)
