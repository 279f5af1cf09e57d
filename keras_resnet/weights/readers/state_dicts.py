"""The state dict in what a pickle holds: itself, or inside a training checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_resnet.errors import WeightsError

# where training scripts keep the state dict; averaged weights first, as timm does
_NESTS = ("state_dict_ema", "model_ema", "state_dict", "model")


def find(
    value: Any, array: Callable[[Any], Any] = lambda entry: entry
) -> dict[str, np.ndarray]:
    """The arrays of a loaded pickle: a state dict, or the one in a training checkpoint.

    Args:
        value: what `pickles.load` returned.
        array: entry of the state dict -> the ndarray that it stands for, else anything.

    Raises:
        WeightsError: unless all keys are strings and all entries arrays.
    """
    for _ in range(3):
        inner = [
            value[key]
            for key in _NESTS
            if isinstance(value, dict) and isinstance(value.get(key), dict)
        ]
        value = inner[0] if inner else value
    if not isinstance(value, dict):
        raise WeightsError(f"it holds a {type(value).__name__}, not a state dict")
    arrays = {name: array(entry) for name, entry in value.items()}
    for name, entry in arrays.items():
        if not isinstance(name, str) or not isinstance(entry, np.ndarray):
            kind = type(value[name]).__name__
            raise WeightsError(f"its entry {name!r} is a {kind}, not a tensor")
    return arrays
