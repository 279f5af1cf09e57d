"""A net to train with `fit`: with a moving average and a count of bad steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_resnet.backend import keras, ops
from keras_resnet.optimizers import attach_loss_scale


class Trainable(keras.Model):
    """Wraps a net for `compile` and `fit`; what is saved is the net alone.

    Works on the TensorFlow and JAX backends. Pixels reach the net as they are, also
    under a half-precision policy; loss scaling is attached where any layer of the net
    computes in float16.

    Args:
        net: a keras.Model that gives logits.
        ema: decay of a moving average of all weights, including batch statistics; at
            step t, from 0, it is at most (1 + t) / (10 + t), as in TensorFlow's
            ExponentialMovingAverage. With 0 there is no average.

    Attributes:
        averages: a list of variables, one for each weight of the net; empty without
            `ema`.
        bad_steps: a variable, the number of batches since the last finite loss.
    """

    def __init__(self, net: Any, ema: float = 0.0, name: str | None = None) -> None:
        if not 0 <= ema < 1:
            raise ValueError(f"ema={ema}: must be in [0, 1)")
        super().__init__(name=name or net.name, dtype="float32", autocast=False)
        self.net = net
        self.ema = ema
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
        """Every variable that training changes, except for the optimizer's."""
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

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if training:
            streak = ops.convert_to_tensor(self.bad_steps) + 1
            self.bad_steps.assign(
                ops.where(ops.isfinite(loss), ops.zeros_like(streak), streak)
            )
        return loss

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
        # no update: gradients were only accumulated, or were not finite and skipped
        keep = ops.where(updates > ops.convert_to_tensor(self.averaged), keep, 1.0)
        self.averaged.assign(updates)
        for average, weight in zip(self.averages, self.net.weights):
            share = ops.cast(1 - keep, average.dtype)
            old, new = map(ops.convert_to_tensor, (average, weight))
            average.assign(old + share * (new - old))

    @contextlib.contextmanager
    def with_averages(self) -> Iterator[None]:
        """A context in which the net has the weights of its moving average."""
        # through NumPy: JAX would share the buffers
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
        """Saves the net."""
        return self.net.save(filepath, *args, **kwargs)

    def save_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Saves the net's weights."""
        return self.net.save_weights(filepath, *args, **kwargs)

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Loads the net's weights."""
        return self.net.load_weights(filepath, *args, **kwargs)


def _assign(variables: Iterable[Any], values: Iterable[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
