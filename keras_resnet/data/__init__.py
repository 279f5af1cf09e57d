"""Data sets: from image files to batches, with the evaluation crop shared by serving.

Outside the model, images are RGB in [0, 255]. In a batch, labels are one-hot.
"""

import contextlib
import functools

import lazy_loader

from keras_resnet.errors import DataError

# lazy, so that the worker processes of `validate` do not import Keras
_import, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)

__all__ = ["DataError", *_names]


def __getattr__(name):
    _leave_gpus_to_jax()
    return _import(name)


@functools.cache
def _leave_gpus_to_jax():
    """Hides the GPUs from TensorFlow if another backend computes the networks.

    TensorFlow then only reads images, but would reserve all GPU memory on first use.
    """
    from keras_resnet.backend import keras

    if keras.backend.backend() != "tensorflow":
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # TensorFlow is initialized already
            tf.config.set_visible_devices([], "GPU")
