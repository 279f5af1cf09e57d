"""oneDNN, TensorFlow's fast kernels on x86-64 processors: chosen, or recommended.

TensorFlow turns oneDNN on by itself only where the processor has AVX-512 VNNI, AVX-VNNI
or AMX. With AVX2 alone, which is enough for it, oneDNN is 1.1 to 1.5 times as fast as
TensorFlow's other kernels, in training and in serving (models/benchmarks.md).
"""

import functools
import os
import platform
import sys

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"  # which TensorFlow reads once, when it starts


def choose() -> None:
    """Turns oneDNN on, unless the environment decides; to call before TensorFlow."""
    if _is_x86():
        os.environ.setdefault(VARIABLE, "1")


def recommend() -> None:
    """Prints a line to stderr, once a process, where oneDNN is off and would help.

    Nothing is printed where the user has set the variable, on GPUs, on backends other
    than TensorFlow, and on processors that are not x86-64.
    """
    if VARIABLE not in os.environ and _would_help():
        _print_once()


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def _would_help() -> bool:
    from keras_resnet.backend import keras  # which imports TensorFlow

    if not _is_x86() or keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf
    from tensorflow.python.util import _pywrap_util_port as built

    # the only place where TensorFlow tells whether oneDNN is at work
    return not built.IsMklEnabled() and not tf.config.get_visible_devices("GPU")


@functools.cache
def _print_once() -> None:
    print(
        "TensorFlow leaves oneDNN off on this processor, where it makes training and "
        f"inference 1.1 to 1.5 times as fast: set {VARIABLE}=1 before TensorFlow is "
        "imported (0 silences this line)",
        file=sys.stderr,
    )
