"""The input stems: from pixels to the first stage's quarter resolution."""

from __future__ import annotations

from typing import Any

from keras_resnet.backend import keras, layers
from keras_resnet.layers.composite import Composite, Shape, build_in_order, strided
from keras_resnet.layers.convolution import ConvNorm


class _Stem(Composite):
    """What comes after the convolutions: a 3x3 maximum at stride 2."""

    def __init__(self, arguments: dict[str, Any], **kwargs: Any):
        super().__init__(arguments, **kwargs)
        # zero is a neutral pad for the maximum, after a ReLU
        self.pad = self.make(layers.ZeroPadding2D, 1, name="pad")
        self.pool = self.make(layers.MaxPooling2D, 3, strides=2, name="pool")

    def _conv(self, name: str, filters: int, kernel_size: int, stride: int) -> ConvNorm:
        return self.make(
            ConvNorm,
            filters,
            kernel_size,
            stride,
            fused_batch_norm=self.arguments["fused_batch_norm"],
            name=name,
        )


@keras.saving.register_keras_serializable(package="keras_resnet")
class DeepStem(_Stem):
    """Three 3x3 convolutions, the first at stride 2, and the max pool: ResNet-C and -D.

    [N, H, W, C] -> [N, ceil(H / 4), ceil(W / 4), 2 * width]. arXiv 1812.01187 section
    4.2, figure 2b (the text there gives two convolutions stride 2; figure and code only
    the first); scope `C1` of the TF-slim code: 32, 32, 64 filters at `width=32`,
    padding explicit. `tiered=True` has 24, 32, 64, timm's "t" nets.
    """

    def __init__(
        self,
        width: int = 32,
        tiered: bool = False,
        fused_batch_norm: bool | None = True,
        **kwargs: Any,
    ):
        super().__init__(
            {"width": width, "tiered": tiered, "fused_batch_norm": fused_batch_norm},
            **kwargs,
        )
        self.conv1 = self._conv("conv1", 3 * (width // 4) if tiered else width, 3, 2)
        self.conv2 = self._conv("conv2", width, 3, 1)
        self.conv3 = self._conv("conv3", 2 * width, 3, 1)

    def build(self, input_shape: Shape) -> None:
        convolutions = self.conv1, self.conv2, self.conv3
        build_in_order(input_shape, *convolutions, self.pad, self.pool)
        self.built = True

    def call(self, inputs: Any) -> Any:
        y = self.conv1(inputs)
        y = self.conv2(y)
        y = self.conv3(y)
        return self.pool(self.pad(y))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return strided(input_shape, 4, 2 * self.arguments["width"])


@keras.saving.register_keras_serializable(package="keras_resnet")
class ConvStem(_Stem):
    """One 7x7 convolution at stride 2 and the max pool: variants a and b.

    [N, H, W, C] -> [N, ceil(H / 4), ceil(W / 4), filters]. arXiv 1512.03385 table 1.
    """

    def __init__(
        self, filters: int = 64, fused_batch_norm: bool | None = True, **kwargs: Any
    ):
        super().__init__(
            {"filters": filters, "fused_batch_norm": fused_batch_norm}, **kwargs
        )
        self.conv1 = self._conv("conv1", filters, 7, 2)

    def build(self, input_shape: Shape) -> None:
        build_in_order(input_shape, self.conv1, self.pad, self.pool)
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self.pool(self.pad(self.conv1(inputs)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return strided(input_shape, 4, self.arguments["filters"])
