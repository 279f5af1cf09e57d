"""What the functional nets of this room share: their input and their classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_resnet.backend import keras, layers
from keras_resnet.config import IMAGENET_MEAN, IMAGENET_STD
from keras_resnet.weights import load_weights


def images(
    input_shape: Sequence[int | None], include_preprocessing: bool
) -> tuple[Any, Any]:
    """An input [N, H, W, 3], and the pixels that the net computes with."""
    inputs = x = keras.Input(tuple(input_shape), name="images")
    if include_preprocessing:
        x = layers.Rescaling(
            scale=[1 / (255 * std) for std in IMAGENET_STD],
            offset=[-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD)],
            dtype="float32",
            name="preprocessing",
        )(x)
    return inputs, x


def dense(units: int, name: str, activation: str | None = None, **kwargs: Any) -> Any:
    """A dense layer whose kernel starts as torch's."""
    return layers.Dense(
        units,
        activation=activation,
        kernel_initializer=keras.initializers.VarianceScaling(
            1 / 3, "fan_in", "uniform"
        ),
        name=name,
        **kwargs,
    )


def loaded(model: keras.Model, weights: Any) -> keras.Model:
    """The model with the weights of a torchvision checkpoint, if one is given."""
    if weights is not None:
        load_weights(model, weights, dialect="torchvision")
    return model
