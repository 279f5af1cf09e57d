"""The shortcuts of a block whose output has another shape than its input."""

from __future__ import annotations

from typing import Any

from keras_resnet.backend import keras, layers, ops
from keras_resnet.layers.composite import Composite, Shape, build_in_order, strided
from keras_resnet.layers.convolution import ConvNorm


class _Shortcut(Composite):
    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return strided(input_shape, self.arguments["stride"], self.arguments["filters"])


class _Projection(_Shortcut):
    """A convolution with normalization and without ReLU, behind a pool in a subclass.

    Its kernel is 1x1 everywhere but in SENet-154, whose strided projections are 3x3.
    """

    def __init__(
        self,
        filters: int,
        stride: int = 1,
        fused_batch_norm: bool | None = True,
        kernel_size: int = 1,
        dilation: int = 1,
        normalization: str = "batch",
        **kwargs: Any,
    ):
        super().__init__(
            {
                "filters": filters,
                "stride": stride,
                "fused_batch_norm": fused_batch_norm,
                "kernel_size": kernel_size,
                "dilation": dilation,
                "normalization": normalization,
            },
            **kwargs,
        )
        self.pool = self._pool(stride)
        self.projection = self.make(
            ConvNorm,
            filters,
            kernel_size,
            1 if self.pool else stride,
            dilation,
            relu=False,
            fused_batch_norm=fused_batch_norm,
            normalization=normalization,
            name="projection",
        )

    def _pool(self, stride: int) -> layers.Layer | None:
        return None

    def build(self, input_shape: Shape) -> None:
        build_in_order(input_shape, self.pool, self.projection)
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self.projection(self.pool(inputs) if self.pool else inputs)


@keras.saving.register_keras_serializable(package="keras_resnet")
class ProjectionShortcut(_Projection):
    """1x1 convolution at the block's stride, and normalization (arXiv 1512.03385, B).

    [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), filters]. At stride 2 a 1x1
    reads one position in four; `AvgPoolShortcut` is the remedy. SENet-154 has
    `kernel_size=3` instead, with `dilation` where a stage dilates.
    """


@keras.saving.register_keras_serializable(package="keras_resnet")
class AvgPoolShortcut(_Projection):
    """Average pool at the block's stride, then 1x1 convolution at stride 1: ResNet-D.

    [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), filters]. arXiv 1812.01187
    section 4.2, figure 2c; scope `shortcut` of the TF-slim code: `avg_pool2d([s, s], s,
    SAME)`, which on odd sizes divides by the values that exist, as torch does with
    ceil_mode and without count_include_pad. At stride 1 there is no pool, also where a
    stage is dilated, as in TF-slim and GluonCV (timm blurs there).
    """

    def _pool(self, stride: int) -> layers.Layer | None:
        if stride == 1:
            return None
        return self.make(
            layers.AveragePooling2D, stride, stride, padding="same", name="pool"
        )


@keras.saving.register_keras_serializable(package="keras_resnet")
class ZeroPadShortcut(_Shortcut):
    """Every stride-th position, new channels zero: no parameters (arXiv 1512.03385, A).

    [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), filters], filters >= C. The
    zeros come after the input's channels, as in the authors' and facebook's code.
    """

    def __init__(self, filters: int, stride: int = 1, **kwargs: Any):
        super().__init__({"filters": filters, "stride": stride}, **kwargs)
        self.subsample = self.make(
            layers.MaxPooling2D, 1, strides=stride, name="subsample"
        )

    def build(self, input_shape: Shape) -> None:
        channels, filters = input_shape[-1], self.arguments["filters"]
        if filters < channels:
            raise ValueError(
                f"filters={filters}: must be at least the input's {channels} channels; "
                "a zero-padded shortcut cannot drop channels"
            )
        build_in_order(input_shape, self.subsample)
        self.built = True

    def call(self, inputs: Any) -> Any:
        y = self.subsample(inputs)
        new_channels = self.arguments["filters"] - y.shape[-1]
        return ops.pad(y, [[0, 0], [0, 0], [0, 0], [0, new_channels]])


SHORTCUTS = {
    "projection": ProjectionShortcut,
    "avg_pool": AvgPoolShortcut,
    "zero_pad": ZeroPadShortcut,
}
