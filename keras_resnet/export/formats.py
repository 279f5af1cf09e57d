"""The formats of an export: their files, precisions, tensors, and optional packages."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Container, Iterator
from typing import Any

from keras_resnet.errors import ModelError

INPUT, OUTPUT = "images", "probabilities"  # the tensors of every format
# format: its precisions, the usual one first
FORMATS = {
    "savedmodel": ("float32", "bfloat16"),
    "onnx": ("float32",),
    "openvino": ("float32", "bfloat16"),
    "litert": ("float32", "int8"),  # int8: of the weights; "dynamic range"
}
FILES = {
    "savedmodel": "saved_model.pb",
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "litert": "model.tflite",
}


def check_format(
    format: str, precision: str, allowed: Container[str] = FORMATS.keys()
) -> None:
    """Raises a ModelError for a format that is not allowed, or not its precision."""
    if format not in allowed:
        names = ", ".join(name for name in FORMATS if name in allowed)
        raise ModelError(f"format={format!r}: must be one of {names}")
    if precision not in FORMATS[format]:
        raise ModelError(
            f"precision={precision!r} with format={format!r}: must be one of "
            f"{', '.join(FORMATS[format])}"
        )


def require(module: str, extra: str) -> Any:
    """Imports a module of an optional package, or names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"format={extra!r}: needs the package {module.partition('.')[0]} "
            f"({brief(error)}); run `pip install keras-resnet-d[{extra}]`"
        ) from error


def brief(error: BaseException) -> str:
    """The first line of an error that tells what is wrong, or its type's name."""
    lines = (line.strip() for line in str(error).splitlines())
    # OpenVINO's errors begin with a place in its source
    telling = (
        line
        for line in lines
        if line and not line.startswith(("Exception ", "Check '"))
    )
    return next(telling, type(error).__name__)[:300]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the logs of converters and runtimes, Python's and C++'s, off the terminal.

    For the whole process: what other threads write to file descriptor 2 is lost too.
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
