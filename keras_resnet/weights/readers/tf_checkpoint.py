"""A TensorFlow checkpoint, read by TensorFlow in a process of its own.

TensorFlow's parsers are C++ and its authors say to treat its files as programs: what
goes wrong there ends the other process, which has limits on time and memory.
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
_TIMEOUT = 300  # s; TensorFlow itself takes 5 to 20 to start


def read(prefix) -> dict[str, np.ndarray]:
    """The variables of the checkpoint of a prefix, bfloat16 as float32.

    Raises:
        WeightsError: with what the other process said, or how it ended.
    """
    prefix = os.path.abspath(prefix)  # TensorFlow would open "gs://..." too
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "tensors.npz")
        _run(prefix, out)
        with out.open("rb") as file:
            tensors = numpy_zip.read(Archive(file))
    names = tensors.pop("names").tobytes().decode().split("\0")
    return {name: tensors[str(index)] for index, name in enumerate(names)}


def _run(prefix, out):
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "-1",  # reading takes no GPU from a training run
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # without it TensorFlow imports Keras, which takes two seconds
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
        said = done.stdout.decode(errors="replace") or f"exit code {done.returncode}"
        raise WeightsError(f"TensorFlow cannot read it: {said}")
