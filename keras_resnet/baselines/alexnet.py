"""AlexNet in one tower, as torchvision has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_resnet.backend import keras, layers
from keras_resnet.baselines.head import dense, images, loaded


def AlexNet(
    weights: Any = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    *,
    input_shape: Sequence[int | None] = (224, 224, 3),
    include_preprocessing: bool = False,
    alpha: float = 1.0,
    dropout: float = 0.5,
    name: str = "alexnet",
) -> keras.Model:
    """Builds AlexNet in the single-tower form of arXiv 1404.5997, as torchvision does.

    Args:
        weights: None, a checkpoint file of torchvision, or {name: array} of one.
        classes: of the classifier.
        classifier_activation: "softmax" for probabilities, None for logits.
        input_shape: (height, width, 3), at least 63 pixels each. The features are
            averaged to 6x6 if they are not of that size, as they are at 224.
        include_preprocessing: input is RGB in [0, 255], and is normalized by ImageNet's
            mean and standard deviation in the graph. Without it the input is expected
            to be normalized.
        alpha: factor of the number of filters and units of every layer but the last.
        dropout: before each of the two hidden dense layers.
        name: of the model.

    Returns:
        A functional `keras.Model`, [N, H, W, 3] -> float32 [N, classes]. At 1000
        classes it has 61,100,840 parameters.

    Raises:
        WeightsError: the weights do not fit.
    """

    def scaled(filters: int) -> int:
        return max(1, round(alpha * filters))

    inputs, x = images(input_shape, include_preprocessing)
    x = layers.ZeroPadding2D(2, name="pad1")(x)
    x = layers.Conv2D(scaled(64), 11, 4, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    x = layers.Conv2D(scaled(192), 5, padding="same", activation="relu", name="conv2")(
        x
    )
    x = layers.MaxPooling2D(3, 2, name="pool2")(x)
    for number, filters in ((3, 384), (4, 256), (5, 256)):
        x = layers.Conv2D(
            scaled(filters), 3, padding="same", activation="relu", name=f"conv{number}"
        )(x)
    x = layers.MaxPooling2D(3, 2, name="pool5")(x)
    sides = tuple(x.shape[1:3])
    if 1 in sides:  # which Keras's adaptive average refuses in a graph
        repeats = [2 if side == 1 else 1 for side in sides]
        x = layers.UpSampling2D(repeats, name="repeat")(x)
    if sides != (6, 6):
        x = layers.AdaptiveAveragePooling2D(6, name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    for number in (1, 2):
        x = layers.Dropout(dropout, name=f"dropout{number}")(x)
        x = dense(scaled(4096), f"fc{number}", "relu")(x)
    x = dense(classes, "head", classifier_activation, dtype="float32")(x)
    return loaded(keras.Model(inputs, x, name=name), weights)
