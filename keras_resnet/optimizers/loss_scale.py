"""The loss scale that float16 needs, attached wherever a layer computes in it."""

from keras_resnet.backend import keras, ops


@keras.saving.register_keras_serializable(package="keras_resnet")
class LossScale(keras.optimizers.LossScaleOptimizer):
    """Keras's dynamic loss scaling, also right on several replicas.

    A step of which any gradient is not finite, on any replica, is left out, and the
    scale halves; after `dynamic_growth_steps` finite ones it doubles. On TensorFlow
    Keras looks at the first replica alone, though gradients are summed later, so that
    an overflow elsewhere reaches the weights.
    """

    def check_finite(self, grads):
        finite = super().check_finite(grads)
        if keras.backend.backend() != "tensorflow":
            return finite
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return finite
        overflows = ops.cast(ops.logical_not(finite), "float32")
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, overflows) == 0


def attach_loss_scale(optimizer, model):
    """The optimizer, in a LossScale where any layer of the model computes in float16.

    Keras asks the model's own policy only, which does not know of layers that were
    reloaded under another, or that are inside of a wrapper.

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
    scaled = getattr(optimizer, "with_loss_scale", None)  # of a rule of another kind
    return scaled() if scaled else LossScale(optimizer)
