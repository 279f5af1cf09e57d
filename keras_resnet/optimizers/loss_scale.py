"""Loss scaling for models with layers that compute in float16."""

from __future__ import annotations

from typing import Any

from keras_resnet.backend import keras, on_every_device


@keras.saving.register_keras_serializable(package="keras_resnet")
class LossScale(keras.optimizers.LossScaleOptimizer):
    """Keras's dynamic loss scaling, corrected for several replicas.

    If a gradient is not finite on any replica, the step is skipped and the scale is
    halved; after `dynamic_growth_steps` finite steps it is doubled. On TensorFlow,
    Keras's own class checks only the first replica before the gradients are summed, so
    that an overflow on another replica would reach the weights.
    """

    def check_finite(self, grads: Any) -> Any:
        return on_every_device(super().check_finite(grads))


def attach_loss_scale(optimizer: Any, model: keras.Model) -> Any:
    """Returns the optimizer, wrapped in a LossScale if a layer computes in float16.

    Keras checks only the dtype policy of the model itself, which may differ from that
    of its layers, as in a wrapper or a model that was loaded under another policy.

    Args:
        optimizer: what `keras.optimizers.get` takes, or None.
        model: a keras.Model.

    Returns:
        The optimizer, or None for None. An optimizer that already scales the loss is
        returned unchanged.
    """
    if optimizer is None:
        return None
    optimizer = keras.optimizers.get(optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    half = any(layer.compute_dtype == "float16" for layer in model._flatten_layers())
    if not half:
        return optimizer
    scaled = getattr(optimizer, "with_loss_scale", None)  # TensorFlow Addons
    return scaled() if scaled else LossScale(optimizer)
