"""The formats of exports: their files, precisions, tensors and optional packages."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Container, Iterator
from typing import Any

from keras_resnet.errors import ModelError

INPUT, OUTPUT = "images", "probabilities"  # the tensors of every format
# {format: its precisions, the default first}
FORMATS = {
    "savedmodel": ("float32", "bfloat16"),
    "onnx": ("float32", "int8"),
    "openvino": ("float32", "bfloat16", "int8"),
    "litert": ("float32", "int8"),
}
MOST_LOSS = 0.5  # percentage points of top-1 that an int8 export may lose
FILES = {
    "savedmodel": "saved_model.pb",
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "litert": "model.tflite",
}
SERVED = ("onnx", "openvino")  # by `keras-resnet serve`, besides a SavedModel
FRAME = "frame"  # the folder of the SavedModel that reads files and names classes


def check_format(
    format: str,
    precision: str,
    allowed: Container[str] = FORMATS.keys(),
    calibrated: bool = False,
) -> None:
    """Raises a ModelError if these do not go together.

    Args:
        format: the format, which must be one of `allowed`.
        precision: must be one of the format's.
        allowed: names of formats.
        calibrated: whether there are images to calibrate on.
    """
    if format not in allowed:
        names = ", ".join(name for name in FORMATS if name in allowed)
        raise ModelError(f"format={format!r}: must be one of {names}")
    if precision not in FORMATS[format]:
        raise ModelError(
            f"precision={precision!r} with format={format!r}: must be one of "
            f"{', '.join(FORMATS[format])}"
        )
    if calibrated and precision != "int8":
        raise ModelError(
            f"calibrate: is for precision='int8', not {precision!r}; leave it out"
        )
    if precision == "int8" and not calibrated and format != "litert":
        raise ModelError(
            f"precision='int8' with format={format!r}: needs images to calibrate on; "
            "give a data set as calibrate (--calibrate DATA)"
        )


def require(module: str, extra: str) -> Any:
    """Imports and returns a module of an optional package.

    Raises:
        ModelError: the package is not installed; the message names the extra that
            installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"format={extra!r}: needs the package {module.partition('.')[0]} "
            f"({brief(error)}); run `pip install keras-resnet-d[{extra}]`"
        ) from error


def brief(error: BaseException) -> str:
    """Returns the first informative line of an error message, or the error's type."""
    lines = (line.strip() for line in str(error).splitlines())
    # OpenVINO's messages begin with a position in its source code
    informative = (
        line
        for line in lines
        if line and not line.startswith(("Exception ", "Check '"))
    )
    return next(informative, type(error).__name__)[:300]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discards the logs of converters and runtimes, both of Python and of C++.

    This affects the whole process: what other threads write to file descriptor 2 is
    also lost.
    """
    disabled = logging.root.manager.disable
    stderr = os.dup(2)
    try:
        logging.disable(logging.CRITICAL)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        logging.disable(disabled)
