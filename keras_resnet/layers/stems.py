"""The input stems: from pixels to the first stage's quarter resolution."""

from __future__ import annotations

from typing import Any

from keras_resnet.backend import keras, layers
from keras_resnet.layers.composite import Composite, Shape, build_in_order, strided
from keras_resnet.layers.convolution import ConvNorm
from keras_resnet.layers.pooling import BlurPool


class _Stem(Composite):
    """Convolutions, and the pool of stride 2 that follows them.

    `pool` names it: "max", 3x3; "conv", a 3x3 convolution (ResNet-RS, arXiv 2103.07579
    section 6); "avg", 2x2; or "blur", a 3x3 maximum at stride 1 and a `BlurPool`.
    """

    filters: int  # channels that come out

    def _make_pool(self, filters: int) -> None:
        self.filters = filters
        kind = self.arguments["pool"]
        if kind not in ("max", "conv", "avg", "blur"):
            raise ValueError(f"pool={kind!r}: must be 'max', 'conv', 'avg' or 'blur'")
        self.pad = self.blur = None
        if kind == "conv":
            self.pool = self._conv("pool", filters, 3, 2)
        elif kind == "avg":
            self.pool = self.make(
                layers.AveragePooling2D, 2, padding="same", name="pool"
            )
        else:
            # zero is a neutral pad for the maximum, after a ReLU
            self.pad = self.make(layers.ZeroPadding2D, 1, name="pad")
            stride = 2 if kind == "max" else 1
            self.pool = self.make(layers.MaxPooling2D, 3, strides=stride, name="pool")
        if kind == "blur":
            self.blur = self.make(BlurPool, 2, name="blur")

    def _conv(self, name: str, filters: int, kernel_size: int, stride: int) -> ConvNorm:
        return self.make(
            ConvNorm,
            filters,
            kernel_size,
            stride,
            fused_batch_norm=self.arguments["fused_batch_norm"],
            normalization=self.arguments["normalization"],
            name=name,
        )

    def _build(self, input_shape: Shape, *convolutions: ConvNorm) -> None:
        build_in_order(input_shape, *convolutions, self.pad, self.pool, self.blur)
        self.built = True

    def _pooled(self, y: Any) -> Any:
        y = self.pad(y) if self.pad else y
        y = self.pool(y)
        return self.blur(y) if self.blur else y

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return strided(input_shape, 4, self.filters)


@keras.saving.register_keras_serializable(package="keras_resnet")
class DeepStem(_Stem):
    """Three 3x3 convolutions, the first at stride 2, and the max pool: ResNet-C and -D.

    [N, H, W, C] -> [N, ceil(H / 4), ceil(W / 4), 2 * width]. arXiv 1812.01187 section
    4.2, figure 2b (the text there gives two convolutions stride 2; figure and code only
    the first); scope `C1` of the TF-slim code: 32, 32, 64 filters at `width=32`,
    padding explicit. `tiered=True` has 24, 32, 64, timm's "t" nets.

    Args:
        width: filters of the second convolution.
        tiered: the first has three quarters of them.
        fused_batch_norm: as `ConvNorm`'s.
        normalization: as `ConvNorm`'s.
        pool: "max", 3x3; in its place "conv", a 3x3 convolution (ResNet-RS), "avg",
            2x2, or "blur", a 3x3 maximum at stride 1 and a `BlurPool`.
    """

    def __init__(
        self,
        width: int = 32,
        tiered: bool = False,
        fused_batch_norm: bool | None = True,
        pool: str = "max",
        normalization: str = "batch",
        **kwargs: Any,
    ):
        arguments = {
            "width": width,
            "tiered": tiered,
            "fused_batch_norm": fused_batch_norm,
            "pool": pool,
            "normalization": normalization,
        }
        super().__init__(arguments, **kwargs)
        self.conv1 = self._conv("conv1", 3 * (width // 4) if tiered else width, 3, 2)
        self.conv2 = self._conv("conv2", width, 3, 1)
        self.conv3 = self._conv("conv3", 2 * width, 3, 1)
        self._make_pool(2 * width)

    def build(self, input_shape: Shape) -> None:
        self._build(input_shape, self.conv1, self.conv2, self.conv3)

    def call(self, inputs: Any) -> Any:
        y = self.conv1(inputs)
        y = self.conv2(y)
        y = self.conv3(y)
        return self._pooled(y)


@keras.saving.register_keras_serializable(package="keras_resnet")
class ConvStem(_Stem):
    """One 7x7 convolution at stride 2 and the max pool: variants a and b.

    [N, H, W, C] -> [N, ceil(H / 4), ceil(W / 4), filters]. arXiv 1512.03385 table 1.
    Arguments as `DeepStem`'s.
    """

    def __init__(
        self,
        filters: int = 64,
        fused_batch_norm: bool | None = True,
        pool: str = "max",
        normalization: str = "batch",
        **kwargs: Any,
    ):
        arguments = {
            "filters": filters,
            "fused_batch_norm": fused_batch_norm,
            "pool": pool,
            "normalization": normalization,
        }
        super().__init__(arguments, **kwargs)
        self.conv1 = self._conv("conv1", filters, 7, 2)
        self._make_pool(filters)

    def build(self, input_shape: Shape) -> None:
        self._build(input_shape, self.conv1)

    def call(self, inputs: Any) -> Any:
        return self._pooled(self.conv1(inputs))
