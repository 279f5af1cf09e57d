"""Who has the GPU's memory: TensorFlow's pipeline takes none of another backend's."""

import contextlib

import tensorflow as tf

from keras_resnet.backend import keras


def leave_gpus() -> None:
    """Hides the GPUs from TensorFlow where Keras computes on another backend.

    TensorFlow takes a GPU's whole memory with its first operation, and only decodes
    pictures here. Where it has it already, there is nothing to be done.
    """
    if keras.backend.backend() != "tensorflow":
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
