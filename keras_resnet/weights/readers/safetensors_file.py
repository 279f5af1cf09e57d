"""A .safetensors file, checked by the safetensors library."""

from __future__ import annotations

import json

import numpy as np
from safetensors import safe_open

from keras_resnet.weights.errors import WeightsError
from keras_resnet.weights.readers.stream import Stream, bfloat16

_MAX_HEADER = 2**21  # bytes; a ResNet-200 has 0.1 MB

_DTYPES = {
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    **{f"I{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    "BF16": "<u2",
    "BOOL": "?",
}


def read(path) -> dict[str, np.ndarray]:
    """The tensors, bfloat16 as float32.

    The library refuses gaps, overlaps, and sizes that shapes do not bear out. It passes
    two tensors of one name and outsize headers. Its own arrays are not used: they are
    copies out of a file that it maps, which takes twice the memory.

    Raises:
        WeightsError: for those, and for numbers that numpy has not.
        safetensors.SafetensorError: for what the library refuses.
    """
    with open(path, "rb") as file:
        stream = Stream(file)
        (length,) = stream.unpack("<Q")
        if length > _MAX_HEADER:
            raise WeightsError(f"a header of {length} bytes is declared")
        header = json.loads(stream.read(length), object_pairs_hook=_once)
        with safe_open(path, "np") as checked:
            names = checked.offset_keys()  # without gaps: each begins where one ended
        return {name: _tensor(stream, name, header[name]) for name in names}


def _once(pairs):
    """A JSON object, of which each key is to stand once."""
    entries = {}
    for key, value in pairs:
        if key in entries:
            raise WeightsError(f"its header holds {key!r} twice")
        entries[key] = value
    return entries


def _tensor(stream, name, entry):
    dtype = entry["dtype"]
    if dtype not in _DTYPES:
        raise WeightsError(f"tensor {name!r} is of dtype {dtype}")
    values = stream.array(_DTYPES[dtype], tuple(entry["shape"]))
    return bfloat16(values) if dtype == "BF16" else values
