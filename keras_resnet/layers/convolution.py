"""A convolution with its normalization: the unit of stems, blocks and shortcuts."""

from __future__ import annotations

from typing import Any

from keras_resnet.backend import keras, layers, ops
from keras_resnet.layers.composite import (
    Composite,
    Shape,
    build_in_order,
    he_fan_out,
    strided,
)
from keras_resnet.layers.normalization import make_normalization


class _GroupedConv2D(layers.Conv2D):
    """With a bias that is added by itself.

    TensorFlow fuses a BiasAdd into the convolution, and then has no kernel for groups
    on a CPU without oneDNN.
    """

    def call(self, inputs: Any) -> Any:
        outputs = self.convolution_op(inputs, self.kernel)
        # of the other order Keras makes a BiasAdd
        return ops.add(ops.reshape(self.bias, (1, 1, 1, -1)), outputs)


@keras.saving.register_keras_serializable(package="keras_resnet")
class ConvNorm(Composite):
    """Convolution without bias, normalization, and ReLU unless `relu=False`.

    [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), filters]. The padding is
    (kernel_size - 1) / 2 * dilation on every side, also at stride 2, where "same" would
    pad (0, 1) on even sizes and shift the result: TF-slim's `slim.conv2d` with
    `slim.batch_norm` after an explicit `tf.pad`, and torch's convolution.

    The normalization is `BatchNormalization`; with `fused_batch_norm=False` it is
    Keras's own, and with `normalization="group"` as well it is group normalization of
    32 groups. Its `epsilon` is added to the variance. `fused_batch_norm=None` has a
    bias in place of it: what `export.fold_batch_norm` makes.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        relu: bool = True,
        zero_gamma: bool = False,
        fused_batch_norm: bool | None = True,
        normalization: str = "batch",
        epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(
            {
                "filters": filters,
                "kernel_size": kernel_size,
                "stride": stride,
                "dilation": dilation,
                "groups": groups,
                "relu": relu,
                "zero_gamma": zero_gamma,
                "fused_batch_norm": fused_batch_norm,
                "normalization": normalization,
                "epsilon": epsilon,
            },
            **kwargs,
        )
        margin = (kernel_size - 1) // 2 * dilation if stride > 1 else 0
        self.pad = None
        if margin:
            self.pad = self.make(layers.ZeroPadding2D, margin, name="pad")
        folded = fused_batch_norm is None and normalization == "batch"
        self.conv = self.make(
            _GroupedConv2D if folded and groups > 1 else layers.Conv2D,
            filters,
            kernel_size,
            strides=stride,
            padding="valid" if stride > 1 else "same",
            dilation_rate=dilation,
            groups=groups,
            use_bias=folded,
            kernel_initializer=he_fan_out(),
            name="conv",
        )
        self.norm = None
        if not folded:
            self.norm = self.make(
                make_normalization,
                normalization,
                fused_batch_norm,
                epsilon=epsilon,
                gamma_initializer="zeros" if zero_gamma else "ones",
                name="norm",
            )
        self.relu = self.make(layers.ReLU, name="relu") if relu else None

    def build(self, input_shape: Shape) -> None:
        build_in_order(input_shape, self.pad, self.conv, self.norm, self.relu)
        self.built = True

    def call(self, inputs: Any) -> Any:
        y = self.pad(inputs) if self.pad else inputs
        y = self.conv(y)
        y = self.norm(y) if self.norm else y
        return self.relu(y) if self.relu else y

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return strided(input_shape, self.arguments["stride"], self.arguments["filters"])
