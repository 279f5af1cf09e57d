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
    "ops",
]
