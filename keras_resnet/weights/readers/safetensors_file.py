"""A .safetensors file, checked by the safetensors library."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
from safetensors import safe_open

from keras_resnet.errors import WeightsError
from keras_resnet.weights.readers.stream import Stream

_MAX_HEADER = 2**21  # bytes; a ResNet-200 has 0.1 MB

_DTYPES = {
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    **{f"I{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    "BF16": "bfloat16",
    "BOOL": "?",
}


class OnDisk:
    """A tensor that is read when numpy asks for it, so that not all are in memory."""

    def __init__(self, path: str, start: int, entry: dict[str, Any], name: str) -> None:
        if entry["dtype"] not in _DTYPES:
            raise WeightsError(f"tensor {name!r} is of dtype {entry['dtype']}")
        self._path, self._dtype = path, _DTYPES[entry["dtype"]]
        self._start = start + entry["data_offsets"][0]
        self.shape = tuple(entry["shape"])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        with open(self._path, "rb") as file:
            stream = Stream(file)
            stream.skip(self._start)
            values = stream.array(self._dtype, self.shape)
        return values if dtype is None else values.astype(dtype)


def read(path: str) -> dict[str, OnDisk]:
    """The tensors of a checked file, each left on disk until it is needed.

    The library refuses gaps, overlaps, and sizes that shapes do not bear out. It passes
    two tensors of one name and outsize headers, which are refused here. Its arrays are
    not used: they are copies out of a file that it maps, which takes twice the memory.

    Raises:
        WeightsError: for those, and for numbers that numpy has not.
        safetensors.SafetensorError: for what the library refuses.
    """
    with open(path, "rb") as file:
        stream = Stream(file)
        header = _header(stream)
        with safe_open(path, "np") as checked:
            names = checked.offset_keys()
        start = stream.tell()
    return {name: OnDisk(path, start, header[name], name) for name in names}


def metadata(path: str | os.PathLike[str], key: str) -> str | None:
    """A text of the file's metadata, of at most 2 MB; None where that key is missing.

    Raises:
        WeightsError: a header that is too large, or holds a name twice.
        AttributeError, TypeError, ValueError: for other damage.
    """
    with open(path, "rb") as file:
        text = _header(Stream(file)).get("__metadata__", {}).get(key)
    return None if text is None else str(text)


def _header(stream: Stream) -> dict[str, Any]:
    (length,) = stream.unpack("<Q")
    if length > _MAX_HEADER:
        raise WeightsError(f"a header of {length} bytes is declared")
    return json.loads(stream.read(length), object_pairs_hook=_without_repeats)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose keys must differ."""
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if key in entries:
            raise WeightsError(f"its header holds {key!r} twice")
        entries[key] = value
    return entries
