"""The loss scale that float16 needs, attached wherever a layer computes in it."""

from __future__ import annotations

from typing import Any

from keras_resnet.backend import keras, ops


@keras.saving.register_keras_serializable(package="keras_resnet")
class LossScale(keras.optimizers.LossScaleOptimizer):
    """Keras's dynamic loss scaling, also right on several replicas.

    A step with a gradient that is not finite, on any replica, is skipped, and the scale
    halves; after `dynamic_growth_steps` finite ones it doubles. On TensorFlow Keras
    checks the first replica alone, though gradients are summed later, so that an
    overflow on another one reaches the weights.
    """

    def check_finite(self, grads: Any) -> Any:
        finite = super().check_finite(grads)
        if keras.backend.backend() != "tensorflow":
            return finite
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return finite
        overflows = ops.cast(ops.logical_not(finite), "float32")
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, overflows) == 0


def attach_loss_scale(optimizer: Any, model: keras.Model) -> Any:
    """The optimizer, in a LossScale where any layer of the model computes in float16.

    Keras asks only the model's own policy, which says nothing of layers that were
    reloaded under another one, or that a wrapper contains.

    Args:
        optimizer: what `keras.optimizers.get` takes; None stays None.
        model: a keras.Model.
    """
    if optimizer is None:
        return None
    optimizer = keras.optimizers.get(optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    half = any(layer.compute_dtype == "float16" for layer in model._flatten_layers())
    if not half:
        return optimizer
    scaled = getattr(optimizer, "with_loss_scale", None)  # TensorFlow Addons' rules
    return scaled() if scaled else LossScale(optimizer)
