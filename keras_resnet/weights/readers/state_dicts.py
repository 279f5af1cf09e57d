"""Finds the state dict in a pickle, which may be that of a training checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_resnet.errors import WeightsError

# keys of the state dict in checkpoints; averaged weights first, as in timm
_NESTS = ("state_dict_ema", "model_ema", "state_dict", "model")


def find(
    value: Any, array: Callable[[Any], Any] = lambda entry: entry
) -> dict[str, np.ndarray]:
    """Returns {name: array} of a state dict, or of that in a training checkpoint.

    Args:
        value: what `pickles.load` returned.
        array: a function from an entry of the state dict to the array it stands for.

    Raises:
        WeightsError: unless all keys are strings and all entries are arrays.
    """
    for _ in range(3):
        inner = [
            value[key]
            for key in _NESTS
            if isinstance(value, dict) and isinstance(value.get(key), dict)
        ]
        value = inner[0] if inner else value
    if not isinstance(value, dict):
        raise WeightsError(f"the file holds a {type(value).__name__}, not a state dict")
    arrays = {name: array(entry) for name, entry in value.items()}
    for name, entry in arrays.items():
        if not isinstance(name, str) or not isinstance(entry, np.ndarray):
            kind = type(value[name]).__name__
            raise WeightsError(f"entry {name!r} is of type {kind}, not a tensor")
    return arrays
