"""Reads and writes .npz files of arrays and strings, without pickles."""

import itertools
import os
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_resnet.errors import SavedModelError


def pack_bytes(values: Any) -> dict[str, np.ndarray]:
    """{"bytes": uint8 [total], "lengths": int64, of the shape of `values`}, of bytes.

    Files of such arrays need no pickle; NumPy's own "S" loses trailing zeros.
    """
    values = np.asarray(values, object)
    lengths = np.array([len(value) for value in values.flat], np.int64)
    joined = np.frombuffer(b"".join(values.flat), np.uint8)
    return {"bytes": joined, "lengths": lengths.reshape(values.shape)}


def unpack_bytes(packed: Mapping[str, np.ndarray]) -> np.ndarray:
    """The array of bytes, of dtype object, that `pack_bytes` packed.

    Raises:
        SavedModelError: other dtypes, or lengths that do not add up to the bytes.
    """
    data, lengths = packed["bytes"], packed["lengths"]
    is_typed = data.dtype == np.uint8 and lengths.dtype == np.int64
    sizes = lengths.ravel().tolist()  # Python's integers do not overflow
    if not is_typed or min(sizes, default=0) < 0 or sum(sizes) != data.size:
        raise SavedModelError("packed: must be uint8 bytes and their int64 lengths")
    values, joined = np.empty(lengths.shape, object), data.tobytes()
    for index, end in enumerate(itertools.accumulate(sizes)):
        values.flat[index] = joined[end - sizes[index] : end]
    return values


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """{name: array} of an .npz file.

    A string tensor is stored as `pack_bytes` packs it, under NAME.bytes and
    NAME.lengths; a bfloat16 as two untyped bytes, "V2", which NumPy's files know.

    Raises:
        SavedModelError: not a file of such arrays.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    array = np.lib.format.read_array(file, allow_pickle=False)
                arrays[member.removesuffix(".npy")] = array
    except (
        *(zipfile.BadZipFile, zlib.error, OSError, EOFError),
        *(ValueError, RuntimeError),
    ) as error:
        raise SavedModelError(f"{os.fspath(path)}: {error}") from error
    for name in [key[:-8] for key in arrays if key.endswith(".lengths")]:
        if f"{name}.bytes" in arrays:
            packed = {key: arrays.pop(f"{name}.{key}") for key in ("bytes", "lengths")}
            arrays[name] = unpack_bytes(packed)
    return arrays


def write_npz(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray | np.generic]
) -> None:
    """Writes {name: array} for `read_npz`, or for np.load, to exactly this path."""
    # np.savez takes no array called file or allow_pickle: its parameters are
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            parts: dict[str, Any] = {name: array}
            if array.dtype.hasobject:
                parts = {f"{name}.{key}": it for key, it in pack_bytes(array).items()}
            for part, value in parts.items():
                with archive.open(f"{part}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, value, allow_pickle=False)
