"""Pooling that Keras lacks: a blur, and an average that counts its padding."""

from __future__ import annotations

from typing import Any

from keras_resnet.backend import keras, layers, ops
from keras_resnet.layers.composite import Composite, Shape, build_in_order, strided


@keras.saving.register_keras_serializable(package="keras_resnet")
class BlurPool(Composite):
    """A binomial 3x3 filter at a stride, without variables (arXiv 1904.11486).

    [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), C], sides of at least 2. The
    filter is [1, 2, 1] / 4 in each direction, over borders that are reflected, as in
    timm. It is computed as two averages of 2x2, which give that filter.
    """

    def __init__(self, stride: int = 2, **kwargs: Any):
        super().__init__({"stride": stride}, **kwargs)
        self.average = self.make(layers.AveragePooling2D, 2, 1, name="average")
        self.pool = self.make(layers.AveragePooling2D, 2, stride, name="pool")

    def build(self, input_shape: Shape) -> None:
        build_in_order(input_shape, self.average, self.pool)
        self.built = True

    def call(self, inputs: Any) -> Any:
        y = ops.pad(inputs, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
        return self.pool(self.average(y))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return strided(input_shape, self.arguments["stride"], input_shape[-1])


@keras.saving.register_keras_serializable(package="keras_resnet")
class PaddedAveragePooling2D(layers.AveragePooling2D):
    """A 3x3 average at stride 1 whose padding of zeros counts, as torch's does.

    [N, H, W, C] -> the same. Keras's "same" average leaves the padding out.
    """

    def call(self, inputs: Any) -> Any:
        padded = ops.pad(inputs, [[0, 0], [1, 1], [1, 1], [0, 0]])
        return ops.average_pool(padded, 3, 1, "valid")
