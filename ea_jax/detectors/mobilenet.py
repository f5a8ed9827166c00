"""MobileNetV2, with one linear layer on its averaged features.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR 2018). Names, padding
and the way that widths are rounded are those of transformers' MobileNetV2.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convert import layouts, single
from convert.files import Stored, WeightsError
from ea_jax.detectors.pixels import Pixels
from ea_jax.flux import described, hub
from ea_jax.settings.fields import check, flag, number

Weights = dict[str, Any]
WAY_OUT = "give the folder of a MobileNetV2 in transformers' layout"
EXPAND = 6
_CHANNELS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
_STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
# Of the running averages; 0.997 or more, as in long trainings, would still be at its start.
_MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class MobileNetConfig:
    """Shape of a MobileNetV2; the names are those of transformers' config.json."""

    image_size: int = described.width(224)
    depth_multiplier: float = number(float, low=0, high=10, above=True, default=1.0)
    depth_divisible_by: int = described.width(8)
    min_depth: int = described.width(8)
    finegrained_output: bool = flag(default=True)
    layer_norm_eps: float = number(float, low=0, high=1, above=True, default=1e-3)

    def __post_init__(self) -> None:
        check(self, "mobilenet")

    @classmethod
    def from_json(cls, config: dict[str, Any], where: str | Path) -> MobileNetConfig:
        """Reads a config.json; ValueError for an invalid value, or what is not supported."""
        return described.read(config, cls, _RULES, where)

    @property
    def features(self) -> int:
        """Width of the last features: never narrower than 1280 where they stay fine-grained."""
        if self.finegrained_output and self.depth_multiplier < 1:
            return 1280
        return self.scaled(1280)

    @property
    def pixels(self) -> Pixels:
        """Pictures in [-1, 1]."""
        return Pixels(self.image_size, self.image_size, (0.5,) * 3, (0.5,) * 3)

    def scaled(self, channels: int) -> int:
        """A layer's channels under the depth multiplier."""
        return self.rounded(round(channels * self.depth_multiplier))

    def rounded(self, channels: int) -> int:
        """To the nearest multiple, and never down by more than a tenth."""
        step = self.depth_divisible_by
        found = max(self.min_depth, int(channels + step / 2) // step * step)
        return found + step if found < 0.9 * channels else found

    def as_json(self) -> dict[str, Any]:
        """What transformers' config.json says of this shape."""
        return {**{key: fixed[0] for key, fixed in _FIXED.items()}, **dataclasses.asdict(self)}


_FIXED: dict[str, tuple[Any, ...]] = {
    "expand_ratio": (EXPAND, float(EXPAND)),
    "first_layer_is_expansion": (True,),
    "hidden_act": ("relu6",),
    "num_channels": (3,),
    "output_stride": (32,),
    "tf_padding": (True,),
}
_RULES = described.Rules(
    fixed=_FIXED,
    harmless=described.TRANSFORMERS | {"classifier_dropout_prob", "semantic_loss_ignore_index"},
    model="MobileNetV2",
)


class _Depthwise(nnx.Module):
    """A 3 x 3 convolution of each channel by itself, as a sum of shifted products.

    XLA's own, with as many groups as channels, is slow to differentiate on a CPU.
    """

    def __init__(self, channels: int, stride: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=(0, 1))
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, 1, channels)))
        self.stride = stride

    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        stride, (h, w) = self.stride, x_BhwC.shape[1:3]
        # As TensorFlow pads: one more below and right where it is uneven.
        pads = [max(2 - (side - 1) % stride, 0) for side in (h, w)]
        around = [(pad // 2, pad - pad // 2) for pad in pads]
        padded_BhwC = jnp.pad(x_BhwC, ((0, 0), *around, (0, 0)))
        kernel_331C = self.kernel[...]
        out = jnp.zeros((), x_BhwC.dtype)
        for i in range(3):
            for j in range(3):
                shifted_BhwC = padded_BhwC[:, i : i + h : stride, j : j + w : stride]
                out += shifted_BhwC * kernel_331C[i, j, 0]
        return out


class _Normalised(nnx.Module):
    """A convolution and its batch norm."""

    def __init__(
        self, convolution: nnx.Module, channels: int, config: MobileNetConfig, *, rngs: nnx.Rngs
    ):
        self.convolution = convolution
        self.normalization = nnx.BatchNorm(
            channels, momentum=_MOMENTUM, epsilon=config.layer_norm_eps, rngs=rngs
        )

    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        return self.normalization(self.convolution(x_BhwC))


class _Stem(nnx.Module):
    def __init__(self, config: MobileNetConfig, *, rngs: nnx.Rngs):
        wide, narrow = config.scaled(32), config.scaled(_CHANNELS[0])
        first = nnx.Conv(3, wide, (3, 3), 2, padding="SAME", use_bias=False, rngs=rngs)
        self.first_conv = _Normalised(first, wide, config, rngs=rngs)
        self.conv_3x3 = _depthwise(wide, 1, config, rngs)
        self.reduce_1x1 = _pointwise(wide, narrow, config, rngs)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        hidden = jax.nn.relu6(self.first_conv(x_BHWC))
        return self.reduce_1x1(jax.nn.relu6(self.conv_3x3(hidden)))


class _Block(nnx.Module):
    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int,
        config: MobileNetConfig,
        *,
        rngs: nnx.Rngs,
    ):
        wide = config.rounded(EXPAND * channels_in)
        self.expand_1x1 = _pointwise(channels_in, wide, config, rngs)
        self.conv_3x3 = _depthwise(wide, stride, config, rngs)
        self.reduce_1x1 = _pointwise(wide, channels, config, rngs)
        self.adds = stride == 1 and channels_in == channels

    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        hidden = jax.nn.relu6(self.expand_1x1(x_BhwC))
        hidden = self.reduce_1x1(jax.nn.relu6(self.conv_3x3(hidden)))
        return x_BhwC + hidden if self.adds else hidden


class _Network(nnx.Module):
    def __init__(self, config: MobileNetConfig, labels: int, *, rngs: nnx.Rngs):
        widths = [config.scaled(channels) for channels in _CHANNELS]
        self.conv_stem = _Stem(config, rngs=rngs)
        self.layer = nnx.Dict(
            {
                str(index): _Block(widths[index], widths[index + 1], stride, config, rngs=rngs)
                for index, stride in enumerate(_STRIDES)
            }
        )
        self.conv_1x1 = _pointwise(widths[-1], config.features, config, rngs)
        self.classifier = nnx.Linear(config.features, labels, rngs=rngs)

    def __call__(self, pixels_BHWC: jax.Array) -> jax.Array:
        x_BhwC = self.conv_stem(pixels_BHWC)
        for index in range(len(_STRIDES)):
            x_BhwC = self.layer[str(index)](x_BhwC)
        x_BhwC = jax.nn.relu6(self.conv_1x1(x_BhwC))
        return self.classifier(x_BhwC.mean((1, 2)))


def _pointwise(
    channels_in: int, channels: int, config: MobileNetConfig, rngs: nnx.Rngs
) -> _Normalised:
    convolution = nnx.Conv(channels_in, channels, (1, 1), use_bias=False, rngs=rngs)
    return _Normalised(convolution, channels, config, rngs=rngs)


def _depthwise(channels: int, stride: int, config: MobileNetConfig, rngs: nnx.Rngs) -> _Normalised:
    convolution = _Depthwise(channels, stride, rngs=rngs)
    return _Normalised(convolution, channels, config, rngs=rngs)


@functools.lru_cache(maxsize=16)
def _graphs(config: MobileNetConfig, labels: int) -> tuple[Any, Any]:
    """The network with its batch norms in inference, and in training."""
    network = nnx.eval_shape(lambda: _Network(config, labels, rngs=nnx.Rngs(0)))
    network.eval()
    inference = nnx.graphdef(network)
    network.train()
    return inference, nnx.graphdef(network)


def init_weights(config: MobileNetConfig, labels: int, key: jax.Array) -> Weights:
    """Random float32 weights, running averages among them.

    Args:
      config: shape of the network.
      labels: outputs of the last layer, `classifier`.
      key: of the random numbers.
    """
    return _init_program(config, labels, key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init_program(config: MobileNetConfig, labels: int, key: jax.Array) -> Weights:
    return dict(nnx.to_pure_dict(nnx.state(_Network(config, labels, rngs=nnx.Rngs(key)))))


def logits(weights: Weights, config: MobileNetConfig, pixels_BHWC: jax.Array) -> jax.Array:
    """Logits [B, V] of pictures as `MobileNetConfig.pixels` makes them; for inference."""
    graph, _ = _graphs(config, _labels(weights))
    return nnx.merge(graph, weights)(pixels_BHWC)


def training_logits(
    weights: Weights, config: MobileNetConfig, pixels_BHWC: jax.Array
) -> tuple[jax.Array, Weights]:
    """Logits under the batch's own statistics, and the weights with running averages moved on."""
    _, graph = _graphs(config, _labels(weights))
    network = nnx.merge(graph, weights)
    found_BV = network(pixels_BHWC)
    return found_BV, dict(nnx.to_pure_dict(nnx.state(network)))


def locate(source: str | Path) -> Path:
    """The folder of a MobileNetV2, or of a hub id; ValueError where there is none."""
    return hub.locate_model(
        source,
        single.FILES,
        folder="the folder of a MobileNetV2 in transformers' layout",
        ids="google/mobilenet_v2_1.0_224",
    )


def load_weights(folder: Path, config: MobileNetConfig, labels: int | None) -> Weights:
    """Reads `model.safetensors`.

    Args:
      folder: of the model.
      config: of the model.
      labels: outputs of its last layer; None leaves that layer out.
    Raises:
      WeightsError: absent or damaged, or tensors that don't fit.
    """
    template = jax.eval_shape(lambda: init_weights(config, labels or 1, jax.random.key(0)))
    tensors = _canonical(single.stored(folder))
    if labels is None:
        del template["classifier"]
        tensors = {name: at for name, at in tensors.items() if not name.startswith("classifier.")}
    elif "classifier.weight" not in tensors:
        raise WeightsError(f"{folder} holds no classifier; {WAY_OUT}, trained on names")
    return single.load(template, tensors, layouts.MOBILENET, folder)


def _canonical(stored: dict[str, Stored]) -> dict[str, Stored]:
    """Names as with a classifier, which puts a prefix before the rest; no counters of batches."""
    found = {name: at for name, at in stored.items() if not name.endswith(".num_batches_tracked")}
    if any(name.startswith("mobilenet_v2.") for name in found):
        return found
    return {
        name if name.startswith("classifier.") else f"mobilenet_v2.{name}": at
        for name, at in found.items()
    }


def _labels(weights: Weights) -> int:
    return int(np.shape(weights["classifier"]["bias"])[0])
