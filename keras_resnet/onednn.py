"""Turns on oneDNN, TensorFlow's fast kernels for x86-64, or recommends it.

TensorFlow turns oneDNN on by itself only if the processor has AVX-512 VNNI, AVX-VNNI or
AMX. On processors that have only AVX2, oneDNN works too, and is 1.1 to 1.5 times as
fast as TensorFlow's other kernels in training and serving
(docs/reference/benchmarks.md).
"""

import functools
import os
import platform
import sys

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"  # TensorFlow reads it once, when it is imported


def choose() -> None:
    """Turns oneDNN on, unless VARIABLE is set; call it before importing TensorFlow."""
    if _is_x86():
        os.environ.setdefault(VARIABLE, "1")


def recommend() -> None:
    """Prints a line to stderr, once per process, if oneDNN is off but would help.

    Nothing is printed if the user has set the variable, on GPUs, with backends other
    than TensorFlow, and on processors other than x86-64.
    """
    if VARIABLE not in os.environ and _would_help():
        _print_once()


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def _would_help() -> bool:
    from keras_resnet.backend import keras  # here, since it imports TensorFlow

    if not _is_x86() or keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf
    from tensorflow.python.util import _pywrap_util_port as built

    # TensorFlow has no public function that tells whether oneDNN is on
    return not built.IsMklEnabled() and not tf.config.get_visible_devices("GPU")


@functools.cache
def _print_once() -> None:
    print(
        "TensorFlow leaves oneDNN off on this processor, but it makes training and "
        f"inference 1.1 to 1.5 times as fast: set {VARIABLE}=1 before importing "
        "TensorFlow (or 0 to hide this message)",
        file=sys.stderr,
    )
