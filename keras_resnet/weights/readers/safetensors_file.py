"""Reads a .safetensors file, which the safetensors library checks."""

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
    """A tensor that is read from the file when numpy converts it to an array."""

    def __init__(self, path: str, start: int, entry: dict[str, Any], name: str) -> None:
        if entry["dtype"] not in _DTYPES:
            raise WeightsError(
                f"tensor {name!r} is of dtype {entry['dtype']}, unknown to numpy"
            )
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
    """Returns {name: tensor}, each of which is left on disk until it is needed.

    The library refuses gaps, overlaps, and sizes that do not fit the shapes. It accepts
    duplicate names and very large headers, which are refused here. The library does not
    read the tensors: it copies them from a memory map, which takes twice the memory.

    Raises:
        WeightsError: for a duplicate name, a very large header, and a dtype that numpy
            does not have.
        safetensors.SafetensorError: if the library refuses the file.
    """
    with open(path, "rb") as file:
        stream = Stream(file)
        header = _header(stream)
        with safe_open(path, "np") as checked:
            names = checked.offset_keys()
        start = stream.tell()
    return {name: OnDisk(path, start, header[name], name) for name in names}


def metadata(path: str | os.PathLike[str], key: str) -> str | None:
    """Returns the text of a key in the file's metadata; None if the key is missing.

    Raises:
        WeightsError: if the header is larger than 2 MiB or holds a name twice.
        AttributeError, TypeError, ValueError: if the file is damaged otherwise.
    """
    with open(path, "rb") as file:
        text = _header(Stream(file)).get("__metadata__", {}).get(key)
    return None if text is None else str(text)


def _header(stream: Stream) -> dict[str, Any]:
    (length,) = stream.unpack("<Q")
    if length > _MAX_HEADER:
        raise WeightsError(
            f"a header of {length} bytes is declared; at most {_MAX_HEADER}"
        )
    return json.loads(stream.read(length), object_pairs_hook=_without_repeats)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The dict of a JSON object; an error if a key is repeated."""
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if key in entries:
            raise WeightsError(f"the header holds {key!r} twice")
        entries[key] = value
    return entries
