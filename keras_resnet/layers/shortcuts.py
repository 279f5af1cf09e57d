"""The ways around a block where its output has another shape than its input."""

from keras_resnet.backend import keras, layers, ops
from keras_resnet.layers.convolution import Composite, ConvNorm


@keras.saving.register_keras_serializable(package="keras_resnet")
class ProjectionShortcut(Composite):
    """1x1 convolution at the block's stride, and normalisation (arXiv 1512.03385, B).

    [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), filters]. At stride 2 it
    reads one position in four; `AvgPoolShortcut` is the remedy.
    """

    def __init__(self, filters, stride=1, fused_batch_norm=True, **kwargs):
        super().__init__(**kwargs)
        self._remember(
            filters=filters, stride=stride, fused_batch_norm=fused_batch_norm
        )
        self.projection = self._part(
            ConvNorm,
            filters,
            1,
            stride,
            relu=False,
            fused_batch_norm=fused_batch_norm,
            name="projection",
        )

    def _chain(self):
        return [self.projection]


@keras.saving.register_keras_serializable(package="keras_resnet")
class AvgPoolShortcut(Composite):
    """Average pool at the block's stride, then 1x1 convolution at stride 1: ResNet-D.

    [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), filters]. arXiv 1812.01187
    section 4.2, figure 2c; scope `shortcut` of the TF-slim code: `avg_pool2d([s, s], s,
    SAME)`, which on odd sizes divides by the values that exist, as torch does with
    ceil_mode and without count_include_pad. At stride 1 there is no pool, also where a
    stage is dilated, as in TF-slim and GluonCV (timm blurs there).
    """

    def __init__(self, filters, stride=1, fused_batch_norm=True, **kwargs):
        super().__init__(**kwargs)
        self._remember(
            filters=filters, stride=stride, fused_batch_norm=fused_batch_norm
        )
        self.pool = None
        if stride > 1:
            self.pool = self._part(
                layers.AveragePooling2D, stride, stride, padding="same", name="pool"
            )
        self.projection = self._part(
            ConvNorm,
            filters,
            1,
            relu=False,
            fused_batch_norm=fused_batch_norm,
            name="projection",
        )

    def _chain(self):
        return [self.pool, self.projection] if self.pool else [self.projection]


@keras.saving.register_keras_serializable(package="keras_resnet")
class ZeroPadShortcut(Composite):
    """Every stride-th position, new channels zero: no parameters (arXiv 1512.03385, A).

    [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), filters], filters >= C. The
    zeros come after the input's channels, as in the authors' and facebook's code.
    """

    def __init__(self, filters, stride=1, **kwargs):
        super().__init__(**kwargs)
        self._remember(filters=filters, stride=stride)
        self.subsample = self._part(
            layers.MaxPooling2D, 1, strides=stride, name="subsample"
        )

    def _chain(self):
        return [self.subsample]

    def build(self, input_shape):
        channels, filters = input_shape[-1], self._arguments["filters"]
        if filters < channels:
            raise ValueError(
                f"filters={filters}: must be at least the input's {channels} channels; "
                "a zero-padded shortcut cannot drop channels"
            )
        self._new_channels = filters - channels
        super().build(input_shape)

    def call(self, inputs):
        x = super().call(inputs)
        return ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, self._new_channels]])

    def compute_output_shape(self, input_shape):
        shape = super().compute_output_shape(input_shape)
        return (*shape[:-1], self._arguments["filters"])


SHORTCUTS = {
    "projection": ProjectionShortcut,
    "avg_pool": AvgPoolShortcut,
    "zero_pad": ZeroPadShortcut,
}
