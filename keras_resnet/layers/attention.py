"""Channel attention for a block's branch: squeeze-and-excitation, and ECA."""

from __future__ import annotations

from typing import Any

from keras_resnet.backend import keras, layers
from keras_resnet.config import SE_RATIO
from keras_resnet.layers.composite import Composite, Shape, build_in_order, he_fan_out
from keras_resnet.plan import eca_kernel_size, se_width


@keras.saving.register_keras_serializable(package="keras_resnet")
class SqueezeExcite(Composite):
    """Scales each channel by a gate from all channels' means (SE, arXiv 1709.01507).

    [N, H, W, C] -> the same. The inner width is C * ratio rounded to a multiple of 8,
    and both 1x1 convolutions have biases, as in timm: C = 256, 512, 1024, 2048 -> 16,
    32, 64, 128.
    """

    def __init__(self, ratio: float = SE_RATIO, **kwargs: Any):
        super().__init__({"ratio": ratio}, **kwargs)
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio={ratio}: must be in (0, 1]")
        self.pool = self.make(layers.GlobalAveragePooling2D, keepdims=True, name="pool")

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        inner = se_width(channels, self.arguments["ratio"])
        self.fc1 = self._conv("fc1", inner, "relu")
        self.fc2 = self._conv("fc2", channels, "sigmoid")
        build_in_order(input_shape, self.pool, self.fc1, self.fc2)
        self.built = True

    def _conv(self, name: str, filters: int, activation: str) -> layers.Layer:
        return self.make(
            layers.Conv2D,
            filters,
            1,
            activation=activation,
            kernel_initializer=he_fan_out(),
            name=name,
        )

    def call(self, inputs: Any) -> Any:
        gate = self.fc1(self.pool(inputs))
        gate = self.fc2(gate)
        return inputs * gate

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)


@keras.saving.register_keras_serializable(package="keras_resnet")
class EfficientChannelAttention(Composite):
    """Scales each channel by a gate from its neighbours' means (ECA, arXiv 1910.03151).

    [N, H, W, C] -> the same. One convolution over the channels, without bias, of odd
    size |log2(C) + 1| / 2, and at least 3, as in timm: C = 4, 64 -> 3; 256, 512, 1024
    -> 5; 2048 -> 7.
    """

    def __init__(self, **kwargs: Any):
        super().__init__({}, **kwargs)
        self.pool = self.make(layers.GlobalAveragePooling2D, name="pool")
        self.gate = self.make(layers.Activation, "sigmoid", name="gate")

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        self.conv = self.make(
            layers.Conv1D,
            1,
            eca_kernel_size(channels),
            padding="same",
            use_bias=False,
            kernel_initializer=he_fan_out(),
            name="conv",
        )
        self.as_sequence = self.make(layers.Reshape, (channels, 1), name="as_sequence")
        self.as_channels = self.make(
            layers.Reshape, (1, 1, channels), name="as_channels"
        )
        build_in_order(
            input_shape,
            self.pool,
            self.as_sequence,
            self.conv,
            self.gate,
            self.as_channels,
        )
        self.built = True

    def call(self, inputs: Any) -> Any:
        means = self.as_sequence(self.pool(inputs))
        gate = self.gate(self.conv(means))
        return inputs * self.as_channels(gate)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)


ATTENTION: dict[str | None, Any] = {
    None: None,
    "se": SqueezeExcite,
    "eca": EfficientChannelAttention,
}
