"""GoogLeNet (Inception-V1) with batch normalization, as torchvision has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_resnet.backend import keras, layers, ops
from keras_resnet.baselines.head import dense, images, loaded
from keras_resnet.layers.auxiliary import AuxiliaryHead, AuxiliaryOutputs
from keras_resnet.layers.composite import Composite, Shape, build_in_order
from keras_resnet.layers.convolution import ConvNorm

_EPSILON = 1e-3  # of the batch normalizations


@keras.saving.register_keras_serializable(package="keras_resnet")
class InceptionBlock(Composite):
    """Four branches, whose channels are concatenated (arXiv 1409.4842 figure 2b).

    [N, H, W, C] -> [N, H, W, ones + threes + fives + pooled]. The branches are a 1x1
    convolution; 1x1 and 3x3; 1x1 and a second 3x3, where the paper has a 5x5, as in
    torchvision; and a 3x3 maximum and 1x1.

    Args:
        ones: filters of the first branch.
        reduce_threes: filters of the second's 1x1.
        threes: filters of its 3x3.
        reduce_fives: filters of the third's 1x1.
        fives: filters of its 3x3.
        pooled: filters of the fourth.
    """

    def __init__(
        self,
        ones: int,
        reduce_threes: int,
        threes: int,
        reduce_fives: int,
        fives: int,
        pooled: int,
        **kwargs: Any,
    ):
        super().__init__(
            {
                "ones": ones,
                "reduce_threes": reduce_threes,
                "threes": threes,
                "reduce_fives": reduce_fives,
                "fives": fives,
                "pooled": pooled,
            },
            **kwargs,
        )
        self.branch1 = self._conv("branch1", ones, 1)
        self.branch2_0 = self._conv("branch2_0", reduce_threes, 1)
        self.branch2_1 = self._conv("branch2_1", threes, 3)
        self.branch3_0 = self._conv("branch3_0", reduce_fives, 1)
        self.branch3_1 = self._conv("branch3_1", fives, 3)
        self.pool = self.make(
            layers.MaxPooling2D, 3, strides=1, padding="same", name="pool"
        )
        self.branch4_1 = self._conv("branch4_1", pooled, 1)

    def _conv(self, name: str, filters: int, kernel_size: int) -> ConvNorm:
        return self.make(ConvNorm, filters, kernel_size, epsilon=_EPSILON, name=name)

    def build(self, input_shape: Shape) -> None:
        build_in_order(input_shape, self.branch1)
        build_in_order(input_shape, self.branch2_0, self.branch2_1)
        build_in_order(input_shape, self.branch3_0, self.branch3_1)
        build_in_order(input_shape, self.pool, self.branch4_1)
        self.built = True

    def call(self, inputs: Any) -> Any:
        ones = self.branch1(inputs)
        threes = self.branch2_1(self.branch2_0(inputs))
        fives = self.branch3_1(self.branch3_0(inputs))
        pooled = self.branch4_1(self.pool(inputs))
        return ops.concatenate([ones, threes, fives, pooled], axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        names = ("ones", "threes", "fives", "pooled")
        return (*input_shape[:-1], sum(self.arguments[name] for name in names))


@keras.saving.register_keras_serializable(package="keras_resnet")
class GoogLeNetModel(keras.Model):
    """A functional model whose loss in training is also that of its auxiliary heads."""

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        outputs, head = self.get_layer("auxiliaries"), self.get_layer("head")

        def of_logits(logits: Any) -> Any:
            return self._compile_loss(y, head.activation(logits), sample_weight)

        return loss + outputs.loss(of_logits) if training else loss


# the arguments of each InceptionBlock; a number is the size of a maximum
_BLOCKS: dict[str, Any] = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "pool3": 3,
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "pool4": 2,
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}
_AUXILIARY = {"inception4a": "aux1", "inception4d": "aux2"}  # behind these blocks


def GoogLeNet(
    weights: Any = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    *,
    input_shape: Sequence[int | None] = (224, 224, 3),
    include_preprocessing: bool = False,
    auxiliary: bool = True,
    alpha: float = 1.0,
    dropout: float = 0.2,
    name: str = "googlenet",
) -> keras.Model:
    """Builds GoogLeNet with batch normalization (arXiv 1409.4842, torchvision).

    In training the losses of two auxiliary heads are added, each with a weight of 0.3
    (section 5); in inference their outputs are not used.

    Args:
        weights: None, a checkpoint file of torchvision, or {name: array} of one.
        classes: of the classifier.
        classifier_activation: "softmax" for probabilities, None for logits.
        input_shape: (height, width, 3).
        include_preprocessing: as `AlexNet`'s.
        auxiliary: with the auxiliary heads.
        alpha: factor of the number of filters of every layer, but not of the auxiliary
            heads.
        dropout: before the classifier.
        name: of the model.

    Returns:
        A functional `keras.Model`, [N, H, W, 3] -> float32 [N, classes], with 6,624,904
        parameters at 1000 classes and without the auxiliary heads.

    Raises:
        WeightsError: the weights do not fit.
    """

    def scaled(filters: int) -> int:
        return max(1, round(alpha * filters))

    def pool(x: Any, size: int, name: str) -> Any:
        if size == 3:  # torch's ceil_mode; zero is neutral behind a ReLU
            x = layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(x)
        padding = "valid" if size == 3 else "same"
        return layers.MaxPooling2D(size, 2, padding=padding, name=name)(x)

    inputs, x = images(input_shape, include_preprocessing)
    x = ConvNorm(scaled(64), 7, 2, epsilon=_EPSILON, name="conv1")(x)
    x = pool(x, 3, "pool1")
    x = ConvNorm(scaled(64), 1, epsilon=_EPSILON, name="conv2")(x)
    x = ConvNorm(scaled(192), 3, epsilon=_EPSILON, name="conv3")(x)
    x = pool(x, 3, "pool2")
    heads = []
    for block, filters in _BLOCKS.items():
        if isinstance(filters, int):
            x = pool(x, filters, block)
            continue
        x = InceptionBlock(*map(scaled, filters), name=block)(x)
        if auxiliary and block in _AUXILIARY:
            heads.append(AuxiliaryHead(classes, name=_AUXILIARY[block])(x))
    x = layers.GlobalAveragePooling2D(dtype="float32", name="pool")(x)
    x = layers.Dropout(dropout, dtype="float32", name="dropout")(x)
    x = dense(classes, "head", classifier_activation, dtype="float32")(x)
    if not heads:
        return loaded(keras.Model(inputs, x, name=name), weights)
    x = AuxiliaryOutputs(dtype="float32", name="auxiliaries")([x, *heads])
    return loaded(GoogLeNetModel(inputs, x, name=name), weights)
