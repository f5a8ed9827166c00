"""A restored state is the saved one, and no accident costs more than the step it hit."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from places import ROOT

from ea_jax.runtime import checkpoints
from ea_jax.runtime.checkpoints import Checkpoints, RestoreError, SaveError

# A run in small: an adapter, two optimisers, a key; a checkpoint after each step.
RUN = """
import sys
import jax, numpy as np, optax
from ea_jax.runtime.checkpoints import Checkpoints, flatten

folder, steps = sys.argv[1], int(sys.argv[2])
lower, upper = optax.adamw(1e-2), optax.adamw(3e-3)
lora = {"A": jax.numpy.ones((64, 8)), "B": jax.numpy.zeros((8, 64))}
state = {"lora": lora, "lower": lower.init(lora), "upper": upper.init(lora),
         "key": jax.random.key(0), "step": jax.numpy.int32(0)}

@jax.jit
def advance(state):
    key, draw = jax.random.split(state["key"])
    lora = state["lora"]
    for name, optimiser in (("lower", lower), ("upper", upper)):
        noise = jax.tree.map(lambda x: x - jax.random.normal(draw, x.shape), lora)
        updates, moments = optimiser.update(noise, state[name], lora)
        lora = optax.apply_updates(lora, updates)
        state = state | {name: moments}
    return state | {"lora": lora, "key": key, "step": state["step"] + 1}

with Checkpoints(folder) as saved:
    found = saved.restore(state)
    start = 0
    if found:
        start, state = found.step, found.state
    print("start", start, flush=True)
    for step in range(start + 1, steps + 1):
        state = advance(state)
        saved.save(step, state, {})
        print("saved", step, flush=True)
np.savez(folder + "/final.npz", **{k.replace("/", "_"): v for k, v in flatten(state).items()})
"""


def run_state(seed: int = 0) -> dict[str, Any]:
    key = jax.random.key(seed)
    lora = {"A": jax.random.normal(key, (3, 4)), "B": jnp.full((4, 2), 0.5)}
    optimiser = optax.partition(
        {"train": optax.adamw(1e-3), "frozen": optax.set_to_zero()}, {"A": "train", "B": "frozen"}
    )
    grads = jax.tree.map(jnp.ones_like, lora)
    return {
        "lora": lora,
        "moments": optimiser.update(grads, optimiser.init(lora), lora)[1],
        "pool": [jnp.arange(4, dtype=jnp.bfloat16) / 3, jnp.array([True, False])],
        "key": jax.random.split(key, 3),
        "seeds": np.array([2**40 + 1]),
        "step": 7,
    }


def same_bits(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    a, b = checkpoints.flatten(a), checkpoints.flatten(b)
    for path in a:
        assert a[path].dtype == b[path].dtype, path
        np.testing.assert_array_equal(np.asarray(a[path]), np.asarray(b[path]), err_msg=path)


def test_a_restored_state_is_the_saved_one_bit_for_bit(tmp_path: Path) -> None:
    state = run_state()
    with Checkpoints(tmp_path) as saved:
        saved.save(7, state, {"base": "sha"})
    with Checkpoints(tmp_path) as saved:
        found = saved.restore(run_state(seed=1))
    assert found is not None
    assert (found.step, found.metadata) == (7, {"base": "sha"})
    same_bits(found.state, state)
    assert found.state["key"].dtype == state["key"].dtype, "a key came back as plain numbers"
    assert type(found.state["step"]) is int
    assert type(found.state["seeds"]) is np.ndarray
    draws = [jax.random.normal(jax.random.clone(s["key"][1])) for s in (state, found.state)]
    assert draws[0] == draws[1]


def test_shapes_alone_are_template_enough(tmp_path: Path) -> None:
    state = run_state()
    del state["step"], state["seeds"]  # eval_shape has no Python numbers
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state, {})
        found = saved.restore(jax.eval_shape(lambda: state))
    assert found is not None
    same_bits(found.state, state)


def test_a_restored_leaf_has_the_sharding_of_the_template(tmp_path: Path) -> None:
    mesh = jax.make_mesh((8,), ("x",))
    split = jax.sharding.NamedSharding(mesh, jax.P("x"))
    with Checkpoints(tmp_path) as saved:
        saved.save(1, {"x": jnp.arange(16.0)}, {})
        found = saved.restore({"x": jax.ShapeDtypeStruct((16,), jnp.float32, sharding=split)})
    assert found is not None
    assert found.state["x"].sharding == split
    np.testing.assert_array_equal(found.state["x"], np.arange(16.0))


def test_an_empty_folder_restores_to_nothing(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "new") as saved:
        assert saved.restore({"x": jnp.zeros(2)}) is None
        assert saved.steps() == []


def test_the_last_two_steps_are_kept(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=2) as saved:
        for step in (1, 2, 5):
            saved.save(step, {"x": jnp.full(2, step)}, {"at": step})
        assert saved.steps() == [2, 5]
        older = saved.restore({"x": jnp.zeros(2, jnp.int32)}, step=2)
    assert older is not None
    assert older.state["x"].tolist() == [2, 2]


def test_saving_a_saved_step_again_changes_nothing(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as saved:
        saved.save(3, {"x": jnp.zeros(2)}, {})
        saved.save(3, {"x": jnp.ones(2)}, {})
        found = saved.restore({"x": jnp.zeros(2)})
        assert found is not None
        assert found.state["x"].tolist() == [0, 0]
        with pytest.raises(ValueError, match="already holds step 3"):
            saved.save(2, {"x": jnp.zeros(2)}, {})


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ({"x": jnp.zeros(3)}, r"'x' is float32\[2\] there, float32\[3\] here"),
        ({"x": jnp.zeros(2, jnp.int32)}, r"'x' is float32\[2\] there, int32\[2\] here"),
        ({"x": jnp.zeros(2), "y": jnp.zeros(1)}, r"'y' is absent there, float32\[1\] here"),
        ({}, r"'x' is float32\[2\] there, absent here"),
    ],
)
def test_a_checkpoint_of_another_run_names_the_first_array_that_differs(
    tmp_path: Path, template: dict[str, Any], said: str
) -> None:
    with Checkpoints(tmp_path) as saved:
        saved.save(1, {"x": jnp.zeros(2)}, {})
        with pytest.raises(RestoreError, match=said):
            saved.restore(template)


def test_a_damaged_checkpoint_says_which_folder_to_remove(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as saved:
        saved.save(1, {"x": jnp.zeros(2)}, {})
        for path in (tmp_path / "1" / "state").rglob("*"):
            if path.is_file() and path.parent.name == "d":
                path.write_bytes(b"")
        with pytest.raises(RestoreError, match="remove that folder"):
            saved.restore({"x": jnp.zeros(2)})


@pytest.mark.parametrize("damage", ["bytes", "list"])
def test_flipped_bytes_or_a_lost_list_of_arrays_are_no_other_run_s(
    tmp_path: Path, damage: str
) -> None:
    state = {"x": jnp.arange(4000.0)}
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state, {})
        for path in (tmp_path / "1" / "state").rglob("*"):
            if damage == "list" and path.name == "_METADATA":
                path.unlink()
            elif damage == "bytes" and path.is_file() and path.parent.name == "d":
                content = bytearray(path.read_bytes())
                content[len(content) // 3 : 2 * len(content) // 3] = b"x" * (len(content) // 3)
                path.write_bytes(content)
    with (
        Checkpoints(tmp_path) as saved,
        pytest.raises(RestoreError, match=r"can't be read.*remove that folder"),
    ):
        saved.restore(state)


@pytest.mark.parametrize(
    "state",
    [
        {"x": np.random.default_rng(0).random((64, 64), np.float32)},
        {"x": np.random.default_rng(0).integers(0, 2**60, 2048)},
    ],
    ids=["float32", "int64"],
)
def test_numbers_that_were_changed_on_disk_are_not_restored(
    tmp_path: Path, state: dict[str, np.ndarray]
) -> None:
    """Random numbers are stored as they are: the formats don't notice a flipped byte."""
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state, {"base": "sha"})
        [stored] = [
            path
            for path in (tmp_path / "1" / "state").rglob("*")
            if path.parent.name == "d" and path.stat().st_size > 1024
        ]
        whole = stored.read_bytes()
        changed = bytearray(whole)
        changed[len(changed) // 2] ^= 0xFF
        stored.write_bytes(changed)
        with pytest.raises(RestoreError, match=r"/1 can't be read: its numbers .* remove that"):
            saved.restore(state)
        stored.write_bytes(whole)
        found = saved.restore(state)
    assert found is not None
    assert found.metadata == {"base": "sha"}
    same_bits(found.state, state)


def test_a_checkpoint_of_a_version_without_fingerprints_is_restored(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as saved:
        saved.save(1, {"x": jnp.ones(2)}, {"base": "sha"})
        (tmp_path / "1" / "metadata" / "metadata").write_text('{"base": "sha"}')
        found = saved.restore({"x": jnp.zeros(2)})
    assert found is not None
    assert (found.metadata, found.state["x"].tolist()) == ({"base": "sha"}, [1, 1])


def test_a_full_disk_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoints(tmp_path) as saved:
        saved.save(1, {"x": jnp.zeros(2)}, {})
        monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(SaveError, match=r"1\.0 MiB|0\.0 MiB are free.*step 1 is kept"):
            saved.save(2, {"x": jnp.zeros(2)}, {})
        assert saved.steps() == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]


def test_a_disk_that_fills_while_saving_costs_only_that_step(tmp_path: Path) -> None:
    """A limit on the size of files makes writing fail half way, as a full disk does."""
    program = """
import resource, signal, sys
import numpy as np
from ea_jax.runtime.checkpoints import Checkpoints, SaveError
saved = Checkpoints(sys.argv[1])
saved.save(1, {"x": np.ones(10)}, {})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))
try:
    saved.save(2, {"x": np.random.default_rng(0).random(1 << 17)}, {})
except SaveError as error:
    print(error)
print(saved.steps())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    said, steps = done.stdout.splitlines()
    assert "file too large" in said
    assert "step 1 is kept" in said
    assert steps == "[1]"
    assert done.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]
    with Checkpoints(tmp_path) as saved:
        found = saved.restore({"x": np.zeros(10)})
    assert found is not None
    assert found.state["x"].sum() == 10


def test_only_a_full_disk_is_told_to_be_full(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "saved") as saved:
        saved.save(1, {"x": np.ones(2)}, {})
        shutil.rmtree(tmp_path / "saved")
        (tmp_path / "saved").touch()
        with pytest.raises(SaveError, match="not a directory; move away the file") as caught:
            saved.save(2, {"x": np.ones(2)}, {})
    assert "space" not in str(caught.value)


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path, kills: int) -> None:
    steps = 40
    seed = int.from_bytes(os.urandom(4))
    chance = random.Random(seed)

    def start(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", RUN, str(folder), str(steps)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    whole = start(tmp_path / "whole")
    killed_at = []
    for stop in sorted(chance.sample(range(2, steps - 2), kills)):
        broken = start(tmp_path / "broken")
        assert broken.stdout is not None
        for line in broken.stdout:
            if line.split()[0] == "saved" and int(line.split()[1]) >= stop:
                break
        time.sleep(chance.uniform(0, 0.05))  # somewhere within the next step, or its save
        broken.send_signal(signal.SIGKILL)
        broken.wait()
        broken.stdout.close()
        killed_at.append(stop)
    last = start(tmp_path / "broken")
    out, _ = last.communicate()
    whole.communicate()
    assert (last.returncode, whole.returncode) == (0, 0)
    assert int(out.splitlines()[0].split()[1]) >= killed_at[-1], "the last run did not resume"
    with np.load(tmp_path / "whole/final.npz") as a, np.load(tmp_path / "broken/final.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name], err_msg=f"{name}, seed {seed}")
