"""What can't be is said before any weights of a run are loaded."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

from configs import soccer
from ea_jax import settings as sections
from ea_jax.flux import hub
from ea_jax.flux.attention import require_backend, resolve_backend
from ea_jax.methods import fit
from ea_jax.runtime.mesh import make_mesh

TINY = sections.from_config(soccer.get_config())


def changed(section: str, **values: Any) -> sections.Settings:
    return dataclasses.replace(
        TINY, **{section: dataclasses.replace(getattr(TINY, section), **values)}
    )


def test_a_run_s_own_settings_fit() -> None:
    pipeline = fit.opened(TINY, make_mesh({}), columns=TINY.concept.max_tokens)
    assert not pipeline.weights


UNGUIDED = dataclasses.replace(
    TINY,
    model=dataclasses.replace(TINY.model, guidance=None),
    loss=dataclasses.replace(TINY.loss, teacher_guidance=None),
)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            changed("lora", rank=129),
            r"rank 129 is .*add_k_proj has .*lora.rank. of at most 128",
        ),
        (changed("lora", scope="dual_qkk"), "'dual_qkk' is unknown"),
        (changed("model", resolution=60), "60 is not a multiple of"),
        (UNGUIDED, "model.guidance is None, but flux-tiny is a model with guidance"),
        (changed("model", attention="splash"), "'splash' runs on TPUs, not on cpu; set model.att"),
        (changed("model", attention="cudnn"), "'cudnn' takes half precision, not float32"),
        (
            changed("model", attention="cudnn", dtype="bfloat16"),
            "'cudnn' asks an NVIDIA GPU .* has cpu; set model",
        ),
    ],
)
def test_settings_that_do_not_fit_the_model_load_nothing(
    made: sections.Settings, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(fit.Pipeline, "load_part", load)
    with pytest.raises(ValueError, match=said):
        fit.opened(made, make_mesh({}), columns=8)


def test_the_largest_rank_of_a_layer_fits() -> None:
    fit.opened(changed("lora", rank=128), make_mesh({}), columns=8)


def test_a_vae_that_is_cut_off_is_seen_before_the_run(tmp_path: Path) -> None:
    folder = shutil.copytree(hub.locate("flux-tiny", [], None), tmp_path / "model")
    [file] = (folder / "vae").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is cut off"):
        fit.opened(changed("model", path=str(folder)), make_mesh({}), columns=8)


def test_cudnn_is_asked_for_what_the_run_will_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gpu:
        compute_capability = "8.0"

    monkeypatch.setattr(jax, "local_devices", lambda: [Gpu()])
    options = {"dtype": "bfloat16", "head": 128, "columns": 0, "tokens": 1024}
    require_backend("cudnn", "gpu", **options)
    for change, said in (
        ({"dtype": "float32"}, "half precision, not float32"),
        ({"columns": 8}, "heads of 136"),
        ({"tokens": 1025}, "not 1025"),
    ):
        with pytest.raises(ValueError, match=said):
            require_backend("cudnn", "gpu", **{**options, **change})


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_that_jax_can_not_take_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"optim.seed = {seed}"):
        changed("optim", seed=seed)
    changed("optim", seed=2**31 - 1)


FLUX = {"dtype": "bfloat16", "head": 128, "columns": 8, "tokens": 4608}


@pytest.mark.parametrize(
    ("platform", "changes", "name"),
    [
        ("cpu", {}, "chunked"),
        ("tpu", {}, "splash"),
        ("tpu", {"head": 32}, "chunked"),
        # No GPU of this process has the kernel: so it is for a program compiled ahead of time.
        ("gpu", {}, "chunked"),
    ],
)
def test_auto_is_the_fastest_attention_of_a_platform(platform, changes, name) -> None:
    assert resolve_backend("auto", platform, **FLUX | changes) == name


@pytest.mark.parametrize(
    ("capability", "version", "changes", "name"),
    [
        ("9.0", 91000, {}, "cudnn"),
        ("9.0", 90900, {}, "chunked"),
        ("9.0", 91000, {"dtype": "float32"}, "chunked"),
        ("9.0", 91000, {"tokens": 4607}, "chunked"),
        ("8.0", 91000, {}, "chunked"),
        # Above 128 lanes, the columns' included, only Hopper has the gradient.
        ("10.0", 91000, {}, "chunked"),
        ("10.0", 91000, {"columns": 0}, "cudnn"),
    ],
)
def test_auto_takes_cudnn_only_where_it_can_run(
    monkeypatch, capability, version, changes, name
) -> None:
    from jax._src.cudnn import fused_attention_stablehlo as stablehlo

    class Gpu:
        compute_capability = capability

    reached = lambda least: float(capability) >= float(least)  # noqa: E731
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [Gpu()])
    monkeypatch.setattr(stablehlo, "check_compute_capability", reached)
    monkeypatch.setattr(stablehlo, "check_cudnn_version", lambda: version)
    assert resolve_backend("auto", "gpu", **FLUX | changes) == name


def test_a_named_attention_stays_and_an_unknown_one_is_an_error() -> None:
    assert resolve_backend("full", "tpu", **FLUX) == "full"
    with pytest.raises(ValueError, match="did you mean 'splash'"):
        resolve_backend("splesh", "tpu", **FLUX)


def test_a_run_has_its_attention_by_name() -> None:
    model = fit.Pipeline("flux-tiny").transformer_config
    assert TINY.model.attention == "auto"
    found = fit.resolved(TINY, model, make_mesh({}), latent=(8, 8, 16))
    assert found == changed("model", attention="chunked")
