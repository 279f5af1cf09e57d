"""Layers whose activations the backward pass computes again, not to keep them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_resnet.backend import keras, ops


def recomputable(call: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Decorates a layer's `call(inputs)`; where the layer `recomputes`, it is `remat`.

    In training the layer then keeps its inputs alone, and the backward pass runs it
    again (arXiv 1604.06174). Outputs, gradients, statistics and masks are the same.
    """

    def call_or_recompute(
        self: Any,
        inputs: Any,
        training: bool | None = None,
        recomputing: bool = False,
    ) -> Any:
        if self.recomputes and training and not recomputing:
            return _recomputed(self, inputs)
        return call(self, inputs)

    return call_or_recompute


def _recomputed(layer: Any, inputs: Any) -> Any:
    """layer(inputs, training=True), by `keras.remat` of a function of values alone.

    `keras.RematScope` cannot run layers with a state: the backward pass would update
    moving statistics once more, draw another mask for stochastic depth, and know
    neither that it trains nor the dtypes. Here statistics and seeds go in and come out.
    """
    trained, state = layer.trainable_variables, layer.non_trainable_variables
    before = [ops.copy(variable) for variable in state]  # read now, not at use

    def run(inputs: Any, *weights: Any) -> tuple[Any, ...]:
        values = [*zip(trained, weights), *zip(state, before)]
        with keras.StatelessScope(values) as scope:
            outputs = layer(inputs, training=True, recomputing=True)
        return outputs, *map(scope.get_current_value, state)

    outputs, *after = keras.remat(run)(inputs, *map(ops.convert_to_tensor, trained))
    for variable, value in zip(state, after):
        variable.assign(value)
    return outputs
