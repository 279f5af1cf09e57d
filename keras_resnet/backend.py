"""The Keras that everything here runs on: 3, or on an old stack 2.15 by 3's names."""

import keras

if keras.__version__.startswith("2."):
    from keras_resnet.old_keras import keras, layers, native, ops
else:
    from keras import layers, ops  # type: ignore[no-redef]

    def native(variable):
        """TensorFlow's variable inside of Keras's."""
        return variable.value


__all__ = ["keras", "layers", "native", "ops"]
