"""Pictures: from files to batches, and the one evaluation crop that serving uses too.

Everywhere outside the model a picture is RGB in [0, 255], and a label is one-hot from
the batch on.
"""

import contextlib
import functools

import lazy_loader

from keras_resnet.errors import DataError

# lazy, as the workers of `validate` import neither Keras nor the rest of the package
_import, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)

__all__ = ["DataError", *_names]


def __getattr__(name):
    _leave_gpus_to_jax()
    return _import(name)


@functools.cache
def _leave_gpus_to_jax():
    """Where nets compute on JAX, keeps TensorFlow, which only reads pictures, off GPUs.

    It would take all of their memory when it first computes.
    """
    from keras_resnet.backend import keras

    if keras.backend.backend() != "tensorflow":
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # it has started already
            tf.config.set_visible_devices([], "GPU")
