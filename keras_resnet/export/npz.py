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
    """Returns {"bytes": uint8 [total], "lengths": int64} for an array of bytes.

    "bytes" has all values one after the other, and "lengths" has the shape of `values`.
    Such arrays can be stored without pickle. NumPy's dtype "S" could too, but it loses
    trailing zero bytes.
    """
    values = np.asarray(values, object)
    lengths = np.array([len(value) for value in values.flat], np.int64)
    joined = np.frombuffer(b"".join(values.flat), np.uint8)
    return {"bytes": joined, "lengths": lengths.reshape(values.shape)}


def unpack_bytes(packed: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the array of bytes, with dtype object, that `pack_bytes` packed.

    Raises:
        SavedModelError: a dtype is wrong, or the lengths do not add up to the number of
            bytes.
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
    """Returns {name: array} from an .npz file.

    A string tensor is stored as `pack_bytes` packs it, in NAME.bytes and NAME.lengths.
    A bfloat16 tensor is stored as "V2", two untyped bytes, because the format of NumPy
    has no bfloat16.

    Raises:
        SavedModelError: the file cannot be read, is no .npz file, or needs pickle.
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
    """Writes {name: array} to exactly this path, for `read_npz` or np.load."""
    # not np.savez, which cannot write arrays named as its parameters file and
    # allow_pickle
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            parts: dict[str, Any] = {name: array}
            if array.dtype.hasobject:
                packed = pack_bytes(array)
                parts = {f"{name}.{key}": value for key, value in packed.items()}
            for part, value in parts.items():
                with archive.open(f"{part}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, value, allow_pickle=False)
