"""flux-tiny's transformer training: batches by step, drops, what Muon takes, a falling loss."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from ea_jax.flux import clip, t5
from ea_jax.flux.transformer import TransformerConfig
from ea_jax.flux_tiny.training import distil, flux_batches, loop, pretrain, train_flux
from ea_jax.flux_tiny.training.flux_batches import Encoders, FluxTraining, Phase
from ea_jax.runtime.metrics import NonFiniteError

FLUX = TransformerConfig(
    in_channels=8,
    num_layers=1,
    num_single_layers=1,
    attention_head_dim=8,
    num_attention_heads=2,
    joint_attention_dim=16,
    pooled_projection_dim=12,
    guidance_embeds=True,
    axes_dims_rope=(4, 2, 2),
)
T5 = t5.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
CLIP = clip.ClipConfig(
    vocab_size=50, hidden_size=12, intermediate_size=12, num_hidden_layers=1,
    num_attention_heads=2, max_position_embeddings=16, eos_token_id=49,
)  # fmt: skip
TRAINING = FluxTraining(text_length=8, longer=((16, 3, 2),), text_first=0)
LOOP = loop.LoopConfig(
    steps=40, batch=4, learning_rate=1e-2, warmup=2, weight_decay=0.0, ema=0.9,
    log_every=10, save_every=20, seed=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return Encoders(
        t5=t5.init_weights(T5, jax.random.key(0)),
        clip=clip.init_weights(CLIP, jax.random.key(1)),
        empty_t5_T=jnp.ones(32, jnp.int32),
        empty_clip_T=jnp.full(8, 49),
    )


@pytest.fixture(scope="module")
def batches(encoders):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(6, 4, 8)).astype(np.float16)
    ids = rng.integers(2, 49, size=(2, 6, 3, 8)).astype(np.int16)
    return flux_batches.batches(
        latents, ids[0], ids[1], encoders, TRAINING, groups={"one_object": np.asarray([0])},
        batch=4, seed=3,
    )  # fmt: skip


def test_a_batch_depends_on_its_step_alone(batches):
    again, other = batches(0), batches(1)
    np.testing.assert_array_equal(batches(0).t5_BT, again.t5_BT)
    assert (again.latent_BSC[:, 0] != other.latent_BSC[:, 0]).any()


def test_some_steps_have_longer_text_padded_with_t5s_zero(batches):
    assert batches(0).t5_BT.shape == (4, 8)
    longer = batches(2)
    assert longer.t5_BT.shape == (2, 16)
    assert not longer.t5_BT[:, 8:].any()
    assert longer.clip_BT.shape == (2, 8)


@pytest.mark.slow
def test_text_is_dropped_as_often_as_asked(batches):
    batch = batches(0)

    def encode(given=batch, **shares):
        none = dict.fromkeys(("pooled_empty", "pooled_zero", "pooled_other", "caption_empty"), 0.0)
        training = dataclasses.replace(TRAINING, **{**none, **shares})
        return train_flux.encode(given, T5, CLIP, jax.random.key(0), training)

    plain, no_caption = encode(), encode(caption_empty=1.0)
    assert (plain.t5_BTD[0] != plain.t5_BTD[1]).any()
    np.testing.assert_array_equal(no_caption.t5_BTD[0], no_caption.t5_BTD[1])
    np.testing.assert_array_equal(no_caption.pooled_BD[0], encode(pooled_empty=1.0).pooled_BD[1])
    assert (plain.pooled_BD != no_caption.pooled_BD).any()
    assert not encode(pooled_zero=1.0).pooled_BD.any()
    np.testing.assert_array_equal(encode(pooled_zero=1.0).t5_BTD, plain.t5_BTD)
    other = encode(pooled_other=1.0)
    np.testing.assert_array_equal(other.pooled_BD, np.roll(plain.pooled_BD, 1, axis=0))
    np.testing.assert_array_equal(other.t5_BTD, plain.t5_BTD)
    withheld = encode(given=batch.replace(withheld=np.bool_(True)))
    np.testing.assert_array_equal(withheld.pooled_BD, no_caption.pooled_BD)
    np.testing.assert_array_equal(withheld.t5_BTD, plain.t5_BTD)


GROUPS = ("one_object", "two_objects", "relation", "default_style")


def _a_row_a_group(encoders, training):
    """Each group of `GROUPS` is one row, after a row that is in none."""
    latents = np.stack([np.full((4, 8), row) for row in range(1 + len(GROUPS))]).astype(np.float16)
    ids = np.ones((1 + len(GROUPS), 1, 8), np.int16)
    return flux_batches.batches(
        latents, ids, ids, encoders, training, batch=64, seed=0,
        groups={name: np.asarray([row]) for row, name in enumerate(GROUPS, 1)},
    )  # fmt: skip


def test_pooled_clip_is_withheld_in_the_first_steps(encoders):
    """Given from the start, it is all that the model reads."""
    at = _a_row_a_group(encoders, dataclasses.replace(TRAINING, text_first=5))
    assert [bool(at(step).withheld) for step in (0, 4, 5)] == [True, True, False]


def test_a_phase_draws_its_shares_at_its_noise(encoders):
    shares = {"one_object": 0.4, "two_objects": 0.2, "relation": 0.1, "default_style": 0.3}
    phases = (Phase(0), Phase(3, **shares, t_mean=6.0, larger=4))
    at = _a_row_a_group(encoders, dataclasses.replace(TRAINING, phases=phases))
    assert [len(at(step).t5_BT) for step in (1, 3)] == [64, 256]
    drawn = [np.bincount(at(step).latent_BSC[:, 0, 0].astype(int)) for step in (1, 3)]
    drawn = [counts / counts.sum() for counts in drawn]
    assert (drawn[0] > 0.1).all()
    np.testing.assert_allclose(drawn[1], [0, 0.4, 0.2, 0.1, 0.3], atol=0.15)
    keys = jax.random.split(jax.random.key(0))
    noise = [np.median(train_flux.noised(at(step), *keys, TRAINING)[1]) for step in (1, 3)]
    assert noise[0] < 0.9 < noise[1]


def test_the_student_begins_where_the_teacher_ends(encoders):
    """Its steps are counted from 0 again; what the teacher began with is behind it."""
    student, teacher = pretrain.DISTIL_TRAINING, pretrain.FLUX_TRAINING
    shorter = [dataclasses.replace(training, text_length=8) for training in (student, teacher)]
    first = _a_row_a_group(encoders, shorter[0])(0)
    last = _a_row_a_group(encoders, shorter[1])(pretrain.FLUX_LOOP.steps)
    assert not first.withheld
    assert first.t_mean == last.t_mean
    assert student.pooled_empty == teacher.pooled_empty


@pytest.mark.slow
def test_the_first_layer_leaves_text_white():
    """Directions of little variance come out as large as the others, and without a mean."""
    rng = np.random.default_rng(0)
    text_TD = rng.normal(size=(4000, 16)) * np.geomspace(1, 0.1, 16) + 3
    fresh = train_flux.init_weights(FLUX, jax.random.key(0))["flux"]["context_embedder"]
    made = train_flux.whiten_context(fresh, text_TD)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, fresh)
    white_TD = text_TD @ np.asarray(made["kernel"]) + np.asarray(made["bias"])
    np.testing.assert_allclose(white_TD.mean(0), 0, atol=1e-3)
    np.testing.assert_array_less(0.5, white_TD.std(0))
    np.testing.assert_array_less(white_TD.std(0), 1.01)


def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else():
    specs = train_flux._matrices(train_flux.init_weights(FLUX, jax.random.key(0)))
    flux = specs["flux"]
    assert flux["transformer_blocks"]["attn"]["add_q_proj"]["kernel"].output_axis == 2
    assert flux["transformer_blocks"]["norm1"]["linear"]["kernel"] is None
    assert flux["single_transformer_blocks"]["proj_out"]["bias"] is None
    assert flux["x_embedder"]["kernel"] is None


def test_parts_of_a_batch_give_its_gradient(batches, monkeypatch):
    def loss(weights, batch, key):
        value = (weights["w"] * batch.latent_BSC.astype(jnp.float32)).mean()
        return value + 0 * batch.t5_BT.sum(), {"value": value}

    weights = {"w": jnp.arange(8.0)}
    start = lambda: loop.start(jax.tree.map(jnp.copy, weights), LOOP)  # noqa: E731
    whole, terms = loop.make_step(loss, LOOP)(start(), batches(0), jax.random.key(0))
    monkeypatch.setattr(flux_batches, "PART_TOKENS", 24)  # two rows of 4 + 8 tokens
    assert flux_batches.split(batches(0))[0][0].shape == (2, 2, 4, 8)
    # Two parts: one a device, or, where they can't be dealt, both on each.
    for mesh in (None, *(Mesh(np.asarray(jax.devices()[:n]), ("data",)) for n in (2, 3))):
        step = loop.make_step(loss, LOOP, None, flux_batches.split, mesh)
        state = loop.start(start().weights, LOOP, None, mesh)
        parted, parted_terms = step(state, batches(0), jax.random.key(0))
        np.testing.assert_allclose(terms["loss"], parted_terms["loss"], rtol=1e-5)
        np.testing.assert_allclose(whole.weights["w"], parted.weights["w"], rtol=1e-5)


@pytest.mark.slow
def test_distillation_leaves_the_empty_prompt_as_it_is(encoders, batches):
    """Whatever its guidance, v("") is the teacher's own: erasing anchors to it."""
    teacher = train_flux.init_weights(FLUX, jax.random.key(0))["flux"]
    # Gates start at zero, which would hide the text.
    teacher = jax.tree.map(lambda w: w + 0.1, teacher)
    always = dataclasses.replace(TRAINING, caption_empty=1.0)
    blind = jax.tree.map(jnp.zeros_like, teacher["time_text_embed"]["guidance_embedder"])
    time_text = {**teacher["time_text_embed"], "guidance_embedder": blind}
    teacher = {**teacher, "time_text_embed": time_text}
    batch = distil.DistilBatch(batches(0), teacher)
    for training, same in ((always, True), (TRAINING, False)):
        loss = jax.jit(distil.make_loss(FLUX, T5, CLIP, training, grid=(2, 2)))
        assert (float(loss(teacher, batch, jax.random.key(3))[0]) < 1e-9) == same


def test_weights_that_are_no_numbers_are_never_saved(tmp_path):
    """A step's loss is from before its update: the weights themselves are looked at."""

    def burst(state, batch, key):
        return state.replace(weights={"w": state.weights["w"] * np.nan}), {"loss": jnp.ones(())}

    state = loop.start({"w": jnp.ones(2)}, LOOP)
    saved = []
    with pytest.raises(
        NonFiniteError, match=r"x/weights is nan at step 20; .* Go on from it with a lower learning"
    ):
        loop.fit(
            burst, state, lambda step: None, config=LOOP, folder=tmp_path / "x",
            on_save=saved.append,
        )  # fmt: skip
    assert not saved


def test_a_stage_can_go_on_at_the_step_where_its_weights_stand(tmp_path):
    """Without their checkpoints: batches and keys are those that come next."""
    seen = []
    state = loop.start({"w": jnp.ones(2)}, LOOP)
    loop.fit(
        lambda state, batch, key: (state, {"loss": jnp.ones(())}),
        state, seen.append, config=LOOP, folder=tmp_path / "x", first=37,
    )  # fmt: skip
    assert seen == [37, 38, 39]


@pytest.mark.slow
def test_training_lowers_the_loss_and_resumes_with_the_same_bits(tmp_path, batches):
    loss = train_flux.make_loss(FLUX, T5, CLIP, TRAINING, grid=(2, 2))
    transform = train_flux.optimiser(LOOP, falling=8)
    step = loop.make_step(loss, LOOP, transform)

    def start():
        weights = train_flux.init_weights(FLUX, jax.random.key(0))
        return loop.start(weights, LOOP, transform)

    whole = loop.fit(step, start(), batches, config=LOOP, folder=tmp_path / "whole")
    half = dataclasses.replace(LOOP, steps=20)
    loop.fit(step, start(), batches, config=half, folder=tmp_path / "cut")
    resumed = loop.fit(step, start(), batches, config=LOOP, folder=tmp_path / "cut")
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20, 30, 40]
    jax.tree.map(np.testing.assert_array_equal, whole.weights, resumed.weights)

    key = jax.random.key(5)
    loss = jax.jit(loss)
    before, after = (loss(w, batches(0), key)[0] for w in (start().weights, whole.weights))
    assert after < 0.95 * before
