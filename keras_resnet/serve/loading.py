"""Loads a version of a model, and runs each of its signatures once."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.errors import SavedModelError
from keras_resnet.export.metagraph import Shape

_SAMPLED = {"string", "float32", "float64", "int32", "int64", "uint8", "bool"}
# a PNG of 1x1, black
_PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a4944415478da6360000000020001e527defc0000000049454e44ae4260"
    "82"
)
Files = list[tuple[str, str, int, int]]  # folder, name, size, time of change


def load_and_run(load: Callable[[Path], Any], path: Path) -> Any:
    """A model whose signatures have run once.

    The first run takes long; and it finds what the loader does not check: a model whose
    variables are missing loads, and then answers nothing.

    Args:
        load: makes a model of a folder, as SavedModel does.

    Raises:
        SavedModelError: it does not load, or does not run.
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
    """A list that changes when a file in this folder does."""
    found = []
    for root, _, names in os.walk(path):
        for name in names:
            # a file may be gone before it is looked at
            with contextlib.suppress(OSError):
                status = os.stat(os.path.join(root, name))
                found.append((root, name, status.st_size, status.st_mtime_ns))
    return sorted(found)


def _sample(dtype: str, shape: Shape) -> np.ndarray:
    """One row for an input, of zeros or, for bytes, a picture."""
    sizes = [1 if size is None else size for size in shape or ()]
    if dtype == "string":
        return np.full(sizes, _PICTURE, object)
    return np.zeros(sizes, dtype)
