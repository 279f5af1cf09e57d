"""Reads a TensorFlow checkpoint with TensorFlow, in a separate process.

TensorFlow's parsers are written in C++, and its authors say to treat its files as
programs. A crash ends only that process, whose time and memory are limited.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from keras_resnet.errors import WeightsError
from keras_resnet.weights.readers import numpy_zip
from keras_resnet.weights.readers.archive import Archive

_PROGRAM = Path(__file__).with_name("tf_checkpoint_process.py")
_TIMEOUT = 300  # seconds; TensorFlow takes 5 to 20 to start


def read(prefix: str) -> dict[str, np.ndarray]:
    """Returns {name: array} of the checkpoint with this prefix; bfloat16 as float32.

    Raises:
        WeightsError: with the message or the exit code of the process that reads it.
    """
    prefix = os.path.abspath(prefix)  # TensorFlow would open "gs://..." too
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "tensors.npz")
        _run(prefix, out)
        with out.open("rb") as file:
            tensors = numpy_zip.read(Archive(file))
    names = tensors.pop("names").tobytes().decode().split("\0")
    return {name: tensors[str(index)] for index, name in enumerate(names)}


def _run(prefix: str, out: Path) -> None:
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "-1",  # the GPU may be in use for training
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # otherwise TensorFlow imports Keras 3, which takes two seconds
        "TF_USE_LEGACY_KERAS": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", _PROGRAM, prefix, out],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"TensorFlow did not read it within {_TIMEOUT} s") from error
    if done.returncode:
        reason = done.stdout.decode(errors="replace") or f"exit code {done.returncode}"
        raise WeightsError(f"TensorFlow cannot read it: {reason}")
