"""The model that `fit` trains: a network with a moving average and loss scaling."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_resnet.backend import keras, on_every_device, ops
from keras_resnet.optimizers import attach_loss_scale


class _MeanLoss(keras.metrics.Mean):
    """The mean loss of images, where `images` may say how many a batch has.

    Keras counts what fills a batch up, of weight zero, as images.
    """

    images: Any = None

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        images, self.images = self.images, None
        super().update_state(values, sample_weight if images is None else images)


class Trainable(keras.Model):
    """Wraps a network for `compile` and `fit`; the save methods write only the network.

    Works on the TensorFlow and JAX backends. Inputs reach the network without a cast,
    even under a half-precision policy. The loss is scaled if any layer of the network
    computes in float16.

    Args:
        net: a keras.Model that returns logits.
        ema: decay per step of a moving average of all weights, moving statistics
            included, in [0, 1). At step t, from 0, it is at most (1 + t) / (10 + t), as
            in TensorFlow's ExponentialMovingAverage. 0 keeps no average.

    Attributes:
        net: the network.
        averages: the moving averages, one variable for each of `net.weights`, in
            order; empty if `ema` is 0.
        averaged: a variable with the number of updates that are in the averages.
        bad_steps: a variable with the number of steps since the loss was last finite.
        class_weights: the weight of each class in the training loss, float [K], for
            labels [B, K]; or None. A mixed label has the mix of the weighted losses.

    Raises:
        ValueError: `ema` is out of range.
    """

    def __init__(self, net: Any, ema: float = 0.0, name: str | None = None) -> None:
        if not 0 <= ema < 1:
            raise ValueError(f"ema={ema}: must be in [0, 1)")
        super().__init__(name=name or net.name, dtype="float32", autocast=False)
        self.net = net
        self.ema = ema
        self.class_weights: np.ndarray | None = None
        self.bad_steps = self.add_weight(
            shape=(), dtype="int32", trainable=False, name="bad_steps"
        )
        self.averaged = self.add_weight(
            shape=(), dtype="int32", trainable=False, name="averaged"
        )
        self.averages = []
        for weight in net.weights if ema else ():
            average = self.add_weight(
                shape=weight.shape,
                dtype=weight.dtype,
                trainable=False,
                name=f"average_{weight.path.replace('/', '_')}",
            )
            average.assign(ops.copy(weight))  # JAX would share the buffer
            self.averages.append(average)

    @property
    def state(self) -> list[Any]:
        """All variables that training changes, except those of the optimizer."""
        return [*self.net.variables, *self.averages, self.averaged, self.bad_steps]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.net(inputs, training=training)

    def compile(
        self,
        optimizer: Any = "sgd",
        *args: Any,
        auto_scale_loss: bool = True,
        **kwargs: Any,
    ) -> None:
        if auto_scale_loss:
            optimizer = attach_loss_scale(optimizer, self.net)
        super().compile(optimizer, *args, auto_scale_loss=False, **kwargs)
        if hasattr(self, "_loss_tracker"):  # not on Keras 2
            # as an attribute, it would also count among the user's metrics
            self.__dict__["_loss_tracker"] = _MeanLoss(name="loss")

    @property
    def _counts_images(self) -> bool:
        return isinstance(getattr(self, "_loss_tracker", None), _MeanLoss)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        if training:
            y, sample_weight = self.weigh(y, sample_weight)
        if getattr(self.net, "computes_its_loss", False):  # of the images too
            loss = self.net.compute_loss(x, y, y_pred, sample_weight, training)
        else:
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training and sample_weight is not None and self._counts_images:
            # of the images alone, not of the zeros that fill a batch
            images = ops.cast(ops.sum(sample_weight), loss.dtype)
            self._loss_tracker.images = images
            size = ops.cast(ops.shape(sample_weight)[0], loss.dtype)
            loss = loss * size / ops.maximum(images, 1)
        if training:
            outputs = getattr(self.net, "auxiliary_outputs", None)
            if outputs is not None:
                loss = loss + outputs.loss(
                    lambda logits: self._compile_loss(y, logits, sample_weight)
                )
            streak = ops.convert_to_tensor(self.bad_steps) + 1
            self.bad_steps.assign(
                ops.where(
                    on_every_device(ops.isfinite(loss)), ops.zeros_like(streak), streak
                )
            )
        return loss

    def weigh(self, labels: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """Applies the class weights: (labels, weights) -> (labels, weights).

        With weights w of the classes, a label y becomes w y / s, and its image gets the
        weight s, the sum of w y. The loss, which is linear in labels that sum to 1, is
        then the sum of the w y times that of each class, also if it smooths the labels.
        """
        if self.class_weights is None:
            return labels, sample_weight
        labels = ops.convert_to_tensor(labels)
        labels = labels * ops.cast(self.class_weights, labels.dtype)
        total = ops.sum(labels, -1)
        weights = total if sample_weight is None else total * sample_weight
        return labels / total[:, None], weights

    def build_metrics(self) -> None:
        """Creates the variables of the metrics, as Keras does on their first use.

        That would be too late for training that resumes in the middle of an epoch.
        """
        shape = self.net.output_shape
        if isinstance(shape, tuple) and len(shape) == 2:  # others have no metrics
            blank = np.zeros((1, shape[-1]), np.float32)
            self.compute_metrics(None, blank, blank)

    def train_step(self, *args: Any) -> Any:
        result = super().train_step(*args)
        if not self.ema:
            return result
        if keras.backend.backend() != "jax":
            self._average()
            return result
        logs, (trainable, others, optimizer, metrics) = result
        mapping = [
            *zip(self.trainable_variables, trainable),
            *zip(self.non_trainable_variables, others),
            *zip(self.optimizer.variables, optimizer),
        ]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            self._average()
        others = [scope.get_current_value(v) for v in self.non_trainable_variables]
        return logs, (trainable, others, optimizer, metrics)

    def _average(self) -> None:
        updates = ops.cast(self.optimizer.iterations, "int32")
        step = ops.cast(updates, "float32") - 1
        keep = ops.minimum(self.ema, (1 + step) / (10 + step))
        # the optimizer updates nothing while it accumulates gradients, or if they are
        # not finite
        keep = ops.where(updates > ops.convert_to_tensor(self.averaged), keep, 1.0)
        self.averaged.assign(updates)
        for average, weight in zip(self.averages, self.net.weights):
            share = ops.cast(1 - keep, average.dtype)
            old, new = map(ops.convert_to_tensor, (average, weight))
            average.assign(old + share * (new - old))

    @contextlib.contextmanager
    def with_averages(self) -> Iterator[None]:
        """Gives the network the weights of its moving average within the context."""
        # copied through NumPy, as JAX would share the buffers
        kept, averages = (
            [np.array(ops.convert_to_numpy(variable)) for variable in variables]
            for variables in (self.net.weights, self.averages)
        )
        _assign(self.net.weights, averages)
        try:
            yield
        finally:
            _assign(self.net.weights, kept)

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Saves the network, as `keras.Model.save` does."""
        return self.net.save(filepath, *args, **kwargs)

    def save_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Saves the network's weights, as `keras.Model.save_weights` does."""
        return self.net.save_weights(filepath, *args, **kwargs)

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Loads the network's weights, as `keras.Model.load_weights` does."""
        return self.net.load_weights(filepath, *args, **kwargs)


def _assign(variables: Iterable[Any], values: Iterable[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
