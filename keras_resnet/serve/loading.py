"""Loads a version of a model and runs each of its signatures once."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.errors import SavedModelError
from keras_resnet.export.metagraph import Shape

_SAMPLED = {"string", "float32", "float64", "int32", "int64", "uint8", "bool"}
# a PNG with one black pixel
_PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a4944415478da6360000000020001e527defc0000000049454e44ae4260"
    "82"
)
Files = list[tuple[str, str, int, int]]  # folder, name, size, modification time


def load_and_run(load: Callable[[Path], Any], path: Path) -> Any:
    """Loads a model, runs each of its signatures once, and returns it.

    The first run of a signature is slow. It also detects errors that loading does not,
    such as missing variables.

    Args:
        load: a function from a folder to a model, such as SavedModel.
        path: the folder.

    Raises:
        SavedModelError: the model cannot be loaded or run.
    """
    model = load(path)
    try:
        for name, signature in model.signatures.items():
            specs = signature["inputs"].items()
            if all(dtype in _SAMPLED and shape for _, (dtype, shape) in specs):
                model.run(name, **{key: _sample(*spec) for key, spec in specs})
    except SavedModelError:
        model.close()
        raise
    return model


def list_files(path: Path) -> Files:
    """Returns a list that differs when a file in the folder has changed."""
    found = []
    for root, _, names in os.walk(path):
        for name in names:
            # a file may be deleted meanwhile
            with contextlib.suppress(OSError):
                status = os.stat(os.path.join(root, name))
                found.append((root, name, status.st_size, status.st_mtime_ns))
    return sorted(found)


def _sample(dtype: str, shape: Shape) -> np.ndarray:
    """Returns one row for an input: zeros, or an image if it takes strings."""
    sizes = [1 if size is None else size for size in shape or ()]
    if dtype == "string":
        return np.full(sizes, _PICTURE, object)
    return np.zeros(sizes, dtype)
