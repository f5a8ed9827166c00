"""The flow-match schedule against FLUX.1's published numbers."""

from __future__ import annotations

import numpy as np
import pytest

from ea_jax.flux.schedule import Schedule

DEV = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}
SCHNELL = {**DEV, "shift": 1.0, "use_dynamic_shifting": False}


@pytest.mark.parametrize(
    ("tokens", "mu", "first", "last"),
    [(1024, 0.63, [1, 0.98066, 0.96064], 0.0650), (4096, 1.15, [1, 0.98841, 0.97622], 0.1047)],
)
def test_dev_shift_follows_the_image_size(tokens, mu, first, last):
    schedule = Schedule.from_json(DEV)
    sigmas = schedule.sigmas(28, tokens)
    assert schedule.mu(tokens) == pytest.approx(mu)
    np.testing.assert_allclose(sigmas[:3], first, atol=5e-6)
    assert sigmas[27] == pytest.approx(last, abs=5e-5)
    assert sigmas[28] == 0
    assert sigmas.dtype == np.float32


def test_schnell_is_not_shifted():
    np.testing.assert_allclose(Schedule.from_json(SCHNELL).sigmas(4, 256), [1, 0.75, 0.5, 0.25, 0])


def test_shift_is_anchored_at_the_configs_size():
    moved = Schedule.from_json({**DEV, "base_image_seq_len": 512})
    assert moved.mu(512) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "DDIMScheduler"}, "'DDIMScheduler' is not supported"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas=True is not supported"),
        ({"time_shift_type": "linear"}, "time_shift_type='linear'"),
    ],
)
def test_another_scheduler_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Schedule.from_json({**DEV, **change})


def test_at_least_one_step():
    with pytest.raises(ValueError, match="steps=0"):
        Schedule.from_json(DEV).sigmas(0, 256)
