"""The input stems: from pixels to the first stage's quarter resolution."""

from keras_resnet.backend import keras, layers
from keras_resnet.layers.convolution import Composite, ConvNorm


class _Stem(Composite):
    """Convolutions, the first at stride 2, then a 3x3 maximum at stride 2."""

    def _finish(self, convolutions):
        for name, (filters, kernel_size, stride) in convolutions.items():
            part = self._part(
                ConvNorm,
                filters,
                kernel_size,
                stride,
                fused_batch_norm=self._arguments["fused_batch_norm"],
                name=name,
            )
            setattr(self, name, part)
        self._names = tuple(convolutions)
        # zero is a neutral pad for the maximum, after a ReLU
        self.pad = self._part(layers.ZeroPadding2D, 1, name="pad")
        self.pool = self._part(layers.MaxPooling2D, 3, strides=2, name="pool")

    def _chain(self):
        convolutions = [getattr(self, name) for name in self._names]
        return [*convolutions, self.pad, self.pool]


@keras.saving.register_keras_serializable(package="keras_resnet")
class DeepStem(_Stem):
    """Three 3x3 convolutions, the first at stride 2, and the max pool: ResNet-C and -D.

    [N, H, W, C] -> [N, ceil(H / 4), ceil(W / 4), 2 * width]. arXiv 1812.01187 section
    4.2, figure 2b (the text there gives two convolutions stride 2; figure and code only
    the first); scope `C1` of the TF-slim code: 32, 32, 64 filters at `width=32`,
    padding explicit. `tiered=True` has 24, 32, 64, timm's "t" nets.
    """

    def __init__(self, width=32, tiered=False, fused_batch_norm=True, **kwargs):
        super().__init__(**kwargs)
        self._remember(width=width, tiered=tiered, fused_batch_norm=fused_batch_norm)
        first = 3 * (width // 4) if tiered else width
        self._finish(
            {
                "conv1": (first, 3, 2),
                "conv2": (width, 3, 1),
                "conv3": (2 * width, 3, 1),
            }
        )


@keras.saving.register_keras_serializable(package="keras_resnet")
class ConvStem(_Stem):
    """One 7x7 convolution at stride 2 and the max pool: variants a and b.

    [N, H, W, C] -> [N, ceil(H / 4), ceil(W / 4), filters]. arXiv 1512.03385 table 1.
    """

    def __init__(self, filters=64, fused_batch_norm=True, **kwargs):
        super().__init__(**kwargs)
        self._remember(filters=filters, fused_batch_norm=fused_batch_norm)
        self._finish({"conv1": (filters, 7, 2)})
