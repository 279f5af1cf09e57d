"""Classifiers in the middle of a net, whose losses are added in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras_resnet.backend import keras, layers
from keras_resnet.layers.composite import Composite, Shape, build_in_order
from keras_resnet.layers.convolution import ConvNorm

WEIGHT = 0.3  # of the loss of each auxiliary head (arXiv 1409.4842 section 5)


@keras.saving.register_keras_serializable(package="keras_resnet")
class AuxiliaryHead(Composite):
    """A classifier in the middle of the net, for its loss in training (section 5).

    [N, H, W, C] -> logits [N, classes], as torchvision has it: an average to 4x4, a 1x1
    convolution of 128 filters, a dense layer of 1024, dropout, and the classifier.
    """

    def __init__(self, classes: int, dropout: float = 0.7, **kwargs: Any):
        super().__init__({"classes": classes, "dropout": dropout}, **kwargs)
        self.pool = self.make(layers.AdaptiveAveragePooling2D, 4, name="pool")
        self.conv = self.make(ConvNorm, 128, 1, epsilon=1e-3, name="conv")
        self.flatten = self.make(layers.Flatten, name="flatten")
        self.fc1 = self.make(layers.Dense, 1024, activation="relu", name="fc1")
        self.dropout = self.make(layers.Dropout, dropout, name="dropout")
        self.fc2 = self.make(layers.Dense, classes, name="fc2")

    def build(self, input_shape: Shape) -> None:
        parts = self.pool, self.conv, self.flatten, self.fc1, self.dropout, self.fc2
        build_in_order(input_shape, *parts)
        self.built = True

    def call(self, inputs: Any) -> Any:
        y = self.conv(self.pool(inputs))
        y = self.fc1(self.flatten(y))
        return self.fc2(self.dropout(y))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.arguments["classes"])


@keras.saving.register_keras_serializable(package="keras_resnet")
class AuxiliaryOutputs(layers.Layer):
    """Passes the first of its inputs on, and keeps the others for `loss`."""

    kept: Sequence[Any] = ()  # the logits of the auxiliary heads in this training step

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        main, *others = inputs
        # not as an attribute of the usual kind, which Keras tracks
        self.__dict__.update(kept=others if training else [])
        return main

    def loss(self, of_logits: Callable[[Any], Any]) -> Any:
        """The sum of the losses of the auxiliary heads, each with a weight of 0.3."""
        return WEIGHT * sum(map(of_logits, self.kept))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape[0])
