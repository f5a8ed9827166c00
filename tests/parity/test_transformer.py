"""Our transformer against diffusers' `FluxTransformer2DModel` on small random weights."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel

from convert import diffusers as layout
from ea_jax.flux import transformer
from ea_jax.flux.columns import ColumnGain, Columns
from ea_jax.flux.stack import unrolled
from ea_jax.flux.transformer import Text, TransformerConfig

pytestmark = pytest.mark.parity

DEV = {
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "axes_dims_rope": (8, 12, 12),
    "joint_attention_dim": 48,
    "pooled_projection_dim": 40,
    "guidance_embeds": True,
    "in_channels": 64,
}
SCHNELL = {**DEV, "guidance_embeds": False}
T = 7
HALF = ColumnGain(jnp.full((2, T), 0.5), jnp.full((2, T), 0.5))


@dataclasses.dataclass
class Case:
    """A model in both frameworks and one batch of inputs."""

    torch_model: FluxTransformer2DModel
    weights: transformer.Weights
    config: TransformerConfig
    grid: tuple[int, int]
    x: np.ndarray
    t: np.ndarray
    text: Text
    guidance: np.ndarray | None

    def diffusers_velocity(self, dtype=torch.float32) -> np.ndarray:
        rows, columns = self.grid
        ids = np.zeros((rows * columns, 3), np.float32)
        ids[:, 1] = np.repeat(np.arange(rows), columns)
        ids[:, 2] = np.tile(np.arange(columns), rows)
        cast = lambda a: torch.tensor(np.asarray(a, np.float32)).to(dtype)  # noqa: E731
        with torch.no_grad():
            out = self.torch_model.to(dtype)(
                hidden_states=cast(self.x),
                encoder_hidden_states=cast(self.text.t5_BTD),
                pooled_projections=cast(self.text.pooled_BD),
                timestep=cast(self.t),
                img_ids=torch.tensor(ids),
                txt_ids=torch.zeros(T, 3),
                guidance=None if self.guidance is None else torch.tensor(self.guidance),
                return_dict=False,
            )[0]
        return out.float().numpy()

    def velocity(self, weights=None, **kwargs) -> np.ndarray:
        call = jax.jit(
            lambda w, x, t, text, g: transformer.velocity(
                w, self.config, x, t, text, grid=self.grid, guidance_B=g, **kwargs
            )[0]
        )
        weights = self.weights if weights is None else weights
        return np.asarray(call(weights, self.x, self.t, self.text, self.guidance), np.float32)


def make_case(folder, options, grid, shrunk=()) -> Case:
    """A model and its inputs; layers whose names hold a word of `shrunk` give next to nothing."""
    torch.manual_seed(0)
    model = FluxTransformer2DModel(**options).eval()
    for parameter in model.parameters():
        # Wide enough that every branch and bias shows in the output.
        torch.nn.init.normal_(parameter, std=0.15 if parameter.ndim > 1 else 0.5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(word in name for word in shrunk):
                parameter.mul_(1e-3)
    model.save_pretrained(folder / "transformer")
    config = TransformerConfig.from_json(dict(model.config))
    weights = layout.load(transformer.abstract_weights(config), folder, "transformer")
    rng = np.random.default_rng(1)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return Case(
        model,
        weights,
        config,
        grid,
        x=normal(2, grid[0] * grid[1], 64),
        t=np.array([0.3, 0.95], np.float32),
        text=Text(normal(2, T, 48), normal(2, 40)),
        guidance=np.array([3.5, 2.0], np.float32) if options["guidance_embeds"] else None,
    )


@pytest.fixture(scope="module")
def dev(tmp_path_factory) -> Case:
    return make_case(tmp_path_factory.mktemp("dev"), DEV, grid=(5, 3))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_forward_with_guidance_on_an_odd_grid(dev):
    assert relative(dev.velocity(), dev.diffusers_velocity()) < 1e-4


def test_forward_without_guidance(tmp_path):
    schnell = make_case(tmp_path, SCHNELL, grid=(2, 6))
    # At 1e-4 a GELU without tanh would pass.
    assert relative(schnell.velocity(), schnell.diffusers_velocity()) < 2e-5


def test_norms_divide_by_the_same_epsilon(tmp_path):
    """It shows where streams, queries and keys are as small as its root."""
    layers = ("x_embedder", "context_embedder", "to_q", "to_k", "add_q", "add_k")
    small = make_case(tmp_path, SCHNELL, grid=(2, 6), shrunk=layers)
    assert relative(small.velocity(), small.diffusers_velocity()) < 1e-4


@pytest.mark.parametrize(
    "options", [{}, {"attention": "full"}, {"remat": "block"}, {"column_gain": HALF}]
)
@pytest.mark.parametrize("blocks", ["stacked", "unrolled", "with transposes"])
def test_every_path_agrees_with_the_scan(dev, options, blocks):
    weights = dev.weights
    if blocks != "stacked":
        weights = unrolled(weights, transposes=blocks == "with transposes")
    gain = {"column_gain": options["column_gain"]} if "column_gain" in options else {}
    assert relative(dev.velocity(weights, **options), dev.velocity(**gain)) < 1e-5


def test_bfloat16_is_as_close_as_bfloat16_rounding(dev, tmp_path):
    exact = dev.diffusers_velocity()
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), dev.weights)
    # Other rounding orders than torch's are as good: both must be equally near to float32.
    ours = relative(dev.velocity(half), exact)
    theirs = relative(make_case(tmp_path, DEV, (5, 3)).diffusers_velocity(torch.bfloat16), exact)
    assert ours < 1.5 * theirs
    assert ours > 1e-4  # it did run in half precision


def test_zeroed_columns_are_scaled_rows_of_the_values(dev):
    """A gain of 1 changes nothing; 0 on all text in both stacks makes its values irrelevant."""
    ones, zeros = jnp.ones((2, T)), jnp.zeros((2, T))
    plain = dev.velocity()
    same = dev.velocity(column_gain=ColumnGain(ones, ones))
    assert relative(same, plain) < 1e-6
    dual = dev.velocity(column_gain=ColumnGain(dual_BT=zeros))
    single = dev.velocity(column_gain=ColumnGain(single_BT=zeros))
    both = dev.velocity(column_gain=ColumnGain(zeros, zeros))
    for a, b in [(plain, dual), (plain, single), (dual, both), (single, both)]:
        assert relative(a, b) > 1e-3


def test_columns_of_every_dual_block_with_the_image_after_the_text(dev):
    columns = Columns(jnp.array([[1, 2], [3, 0]]), jnp.array([[1, 1], [1, 0]], bool))
    call = lambda fn, **kw: fn(  # noqa: E731
        dev.weights, dev.config, dev.x, dev.t, dev.text, grid=dev.grid,
        guidance_B=jnp.asarray(dev.guidance), **kw,
    )  # fmt: skip
    _, cols = call(transformer.velocity, columns=columns)
    assert cols.shape == (2, 2, 4, T + 15, 2)
    assert ((cols >= 0) & (cols <= 1)).all()
    assert not cols[:, 1, :, :, 1].any()
    stopped = transformer.dual_columns(
        dev.weights, dev.config, dev.x, dev.t, dev.text, columns, grid=dev.grid,
        guidance_B=jnp.asarray(dev.guidance),
    )  # fmt: skip
    np.testing.assert_allclose(cols, stopped, rtol=1e-6)


def test_guidance_must_fit_the_model(dev):
    with pytest.raises(ValueError, match="guidance_embeds=True; dev takes a guidance"):
        transformer.velocity(dev.weights, dev.config, dev.x, dev.t, dev.text, grid=dev.grid)


def test_grid_must_hold_the_tokens(dev):
    with pytest.raises(ValueError, match=r"grid \(4, 4\) does not hold the 15 tokens"):
        transformer.velocity(
            dev.weights, dev.config, dev.x, dev.t, dev.text, grid=(4, 4), guidance_B=dev.guidance
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "SD3Transformer2DModel"}, "'SD3Transformer2DModel', not a Flux"),
        ({"in_channels": 384, "out_channels": 64}, "in_channels=384 and out_channels=64"),
        ({"axes_dims_rope": (8, 8, 8)}, "must add up to attention_head_dim=32"),
    ],
)
def test_config_of_another_model_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig.from_json({**DEV, **change})
