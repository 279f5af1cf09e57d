"""Keras 3, or Keras 2.15 under the names of Keras 3, for the whole package."""

from typing import Any

import keras

if keras.__version__.startswith("2."):
    from keras_resnet.legacy.keras2 import keras, layers, native, ops
else:
    from keras import layers, ops  # type: ignore[no-redef]

    def native(variable: Any) -> Any:
        """The TensorFlow variable inside a Keras variable."""
        return variable.value


def number(value: Any) -> float:
    """The value of a scalar tensor or variable, which several devices may hold."""
    return float(ops.convert_to_numpy(value))


def on_every_device(condition: Any) -> Any:
    """Whether a boolean tensor is true on all devices that share a training step.

    Of use on TensorFlow, where each device computes its own; elsewhere it is returned
    as it is.
    """
    if keras.backend.backend() != "tensorflow":
        return condition
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return condition
    failures = tf.cast(tf.logical_not(condition), tf.float32)
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, failures) == 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that TensorFlow, JAX or Python ran out of memory.

    Its message decides, since TensorFlow raises ResourceExhaustedError for a full disk
    too.
    """
    exhausted = "OOM when allocating", "Out of memory"
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in exhausted
    )


__all__ = [
    "is_out_of_memory",
    "keras",
    "layers",
    "native",
    "number",
    "on_every_device",
    "ops",
]
