"""The Keras that everything here runs on: 3, or on an old stack 2.15 by 3's names."""

import keras

if keras.__version__.startswith("2."):
    from keras_resnet.legacy.keras2 import keras, layers, native, ops
else:
    from keras import layers, ops  # type: ignore[no-redef]

    def native(variable):
        """TensorFlow's variable inside of Keras's."""
        return variable.value


def is_out_of_memory(error: BaseException) -> bool:
    """Whether TensorFlow, JAX or Python could not get the memory for an array.

    TensorFlow says RESOURCE_EXHAUSTED of a full disk too.
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
