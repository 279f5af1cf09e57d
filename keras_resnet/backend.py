"""The Keras that everything here runs on: 3, or 2.15 by the names of Keras 3."""

from typing import Any

import keras

if keras.__version__.startswith("2."):
    from keras_resnet.legacy.keras2 import keras, layers, native, ops
else:
    from keras import layers, ops  # type: ignore[no-redef]

    def native(variable: Any) -> Any:
        """TensorFlow's variable inside Keras's."""
        return variable.value


def is_out_of_memory(error: BaseException) -> bool:
    """Whether TensorFlow, JAX or Python could not get the memory for an array.

    The text decides, for TensorFlow raises ResourceExhaustedError for a full disk too.
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
