"""Channel attention for a block's branch: squeeze-and-excitation, and ECA."""

import math

from keras_resnet.backend import keras, layers
from keras_resnet.layers.convolution import Composite, he_fan_out


@keras.saving.register_keras_serializable(package="keras_resnet")
class SqueezeExcite(Composite):
    """Scales each channel by a gate from all channels' means (SE, arXiv 1709.01507).

    [N, H, W, C] -> the same. The inner width is C * ratio rounded to a multiple of 8,
    and both 1x1 convolutions have biases, as in timm: C = 256, 512, 1024, 2048 -> 16,
    32, 64, 128.
    """

    def __init__(self, ratio=1 / 16, **kwargs):
        super().__init__(**kwargs)
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio={ratio}: must be in (0, 1]")
        self._remember(ratio=ratio)
        self.pool = self._part(
            layers.GlobalAveragePooling2D, keepdims=True, name="pool"
        )

    def _chain(self):
        return [self.pool, self.fc1, self.fc2]

    def build(self, input_shape):
        channels = input_shape[-1]
        inner = max(8, int(channels * self._arguments["ratio"] + 4) // 8 * 8)
        for name, filters, activation in (
            ("fc1", inner, "relu"),
            ("fc2", channels, "sigmoid"),
        ):
            layer = self._part(
                layers.Conv2D,
                filters,
                1,
                activation=activation,
                kernel_initializer=he_fan_out(),
                name=name,
            )
            setattr(self, name, layer)
        super().build(input_shape)

    def call(self, inputs):
        return inputs * super().call(inputs)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)


@keras.saving.register_keras_serializable(package="keras_resnet")
class EfficientChannelAttention(Composite):
    """Scales each channel by a gate from its neighbours' means (ECA, arXiv 1910.03151).

    [N, H, W, C] -> the same. One convolution over the channels, without bias, of odd
    size |log2(C) + 1| / 2, and at least 3, as in timm: C = 4, 64 -> 3; 256, 512, 1024
    -> 5; 2048 -> 7.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._remember()
        self.pool = self._part(layers.GlobalAveragePooling2D, name="pool")
        self.gate = self._part(layers.Activation, "sigmoid", name="gate")

    def _chain(self):
        return [self.pool, self.as_sequence, self.conv, self.gate, self.as_channels]

    def build(self, input_shape):
        channels = input_shape[-1]
        size = int(abs(math.log2(channels) + 1) / 2)
        self.conv = self._part(
            layers.Conv1D,
            1,
            max(3, size if size % 2 else size + 1),
            padding="same",
            use_bias=False,
            kernel_initializer=he_fan_out(),
            name="conv",
        )
        self.as_sequence = self._part(layers.Reshape, (channels, 1), name="as_sequence")
        self.as_channels = self._part(
            layers.Reshape, (1, 1, channels), name="as_channels"
        )
        super().build(input_shape)

    def call(self, inputs):
        return inputs * super().call(inputs)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)


ATTENTION = {None: None, "se": SqueezeExcite, "eca": EfficientChannelAttention}
