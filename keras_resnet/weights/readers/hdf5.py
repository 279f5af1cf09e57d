"""Reads an HDF5 file as Keras writes it: a tree of groups with plain arrays as leaves.

Other features of HDF5 can open other files, load plugins or fill the memory, and are
refused: soft and external links, external and virtual data, and filters.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import h5py
import numpy as np

from keras_resnet.errors import WeightsError
from keras_resnet.weights.readers.archive import Archive
from keras_resnet.weights.readers.stream import elements, plain, widened

MAGIC = b"\x89HDF\r\n\x1a\n"
MEMBER = "model.weights.h5"  # in a .keras file
_BFLOAT16 = "|V2"  # opaque: how h5py stores the bfloat16 of ml_dtypes
_MAX_DEPTH = 32
_MAX_OBJECTS = 100_000


def read(file: BinaryIO) -> dict[str, np.ndarray]:
    """Returns {path: array}, such as "layers/stem/vars/0"; bfloat16 becomes float32.

    Raises:
        WeightsError: for anything but plain arrays that are stored in the file.
        OSError, RuntimeError, KeyError: if the file is damaged.
    """
    size = file.seek(0, os.SEEK_END)
    with h5py.File(file, "r", rdcc_nbytes=0) as root:
        tensors = dict(_walk(root, "", {_address(root)}, 0))
        if (total := sum(data.nbytes for data in tensors.values())) > size:
            raise WeightsError(
                f"a file of {size} bytes declares {total} bytes of arrays"
            )
        return {path: _array(data) for path, data in tensors.items()}


def read_archive(archive: Archive) -> dict[str, np.ndarray]:
    """Returns the arrays in the weights member of a .keras file, as `read` does.

    The file's config.json, which could name any layer, and its assets are not read.
    """
    content: Any = archive.read(MEMBER)
    return read(io.BytesIO(content))


def _walk(
    group: Any, prefix: str, seen: set[int], depth: int
) -> Iterator[tuple[str, Any]]:
    """Yields (path, dataset) of each leaf; `seen` are addresses of visited objects."""
    if depth > _MAX_DEPTH or len(seen) + len(group) > _MAX_OBJECTS:
        raise WeightsError(f"group {prefix!r} is nested too deeply or too large")
    for name in group:
        path = prefix + name
        if type(group.get(name, getlink=True)) is not h5py.HardLink:
            raise WeightsError(f"{path!r} is a link to elsewhere, not an array")
        item = group[name]
        if _address(item) in seen:
            raise WeightsError(
                f"{path!r} is an array or group that has another name too"
            )
        seen.add(_address(item))
        if isinstance(item, h5py.Group):
            yield from _walk(item, f"{path}/", seen, depth + 1)
        else:
            _check(path, item)
            yield path, item


def _address(item: Any) -> int:
    return h5py.h5o.get_info(item.id).addr


def _check(path: str, data: Any) -> None:
    """Raises an error unless a leaf is an array that is stored in the file."""
    if not isinstance(data, h5py.Dataset) or data.shape is None:
        raise WeightsError(f"{path!r} is not an array")
    if data.dtype.str != _BFLOAT16:
        try:
            plain(data.dtype.str)
        except WeightsError as error:
            raise WeightsError(f"array {path!r}: {error}") from error
    properties = data.id.get_create_plist()
    if properties.get_layout() not in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS):
        raise WeightsError(
            f"array {path!r} is virtual, or in chunks, as compressed arrays are"
        )
    if properties.get_external_count() or properties.get_nfilters():
        raise WeightsError(f"array {path!r} is stored in another file or filtered")
    declared = elements(tuple(data.shape)) * data.dtype.itemsize
    if declared != data.id.get_storage_size():
        raise WeightsError(
            f"array {path!r} declares {declared} bytes and stores "
            f"{data.id.get_storage_size()}"
        )


def _array(data: Any) -> np.ndarray:
    values = np.empty(data.shape, data.dtype)
    if values.size:
        data.read_direct(values)
    return widened(values) if data.dtype.str == _BFLOAT16 else values
