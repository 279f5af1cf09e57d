"""Reads what mxnet's save_parameters and symbol API write: arrays and their names.

Little endian: u64 0x112, u64 0, u64 n, n arrays, u64 n, n names (u64 length, UTF-8).
An array is a header that depends on mxnet's version, a context, a dtype and values.
"""

from __future__ import annotations

import numpy as np

from keras_resnet.errors import WeightsError
from keras_resnet.weights.readers.stream import Stream

MAGIC = (0x112).to_bytes(8, "little")
_MAX_ARRAYS = 100_000
_MAX_NAME = 4096  # bytes

_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DTYPES = {
    **dict(enumerate(["<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8", "?"])),
    **dict(enumerate(["<i2", "<u2", "<u4", "<u8", "bfloat16"], start=8)),
}


def read(stream: Stream) -> dict[str, np.ndarray]:
    """Returns {name: array}, without the prefixes "arg:" and "aux:" of the symbol API.

    Raises:
        WeightsError: for a count, shape, dtype or name that is invalid or does not fit
            the size of the file.
    """
    magic, reserved, count = stream.unpack("<QQQ")
    if magic.to_bytes(8, "little") != MAGIC or reserved:
        raise WeightsError("the file does not begin as a list of mxnet arrays")
    if count > _MAX_ARRAYS:
        raise WeightsError(f"{count} arrays are declared; at most {_MAX_ARRAYS}")
    arrays = [_array(stream) for _ in range(count)]
    (names,) = stream.unpack("<Q")
    if names != count:
        raise WeightsError(f"the file has {count} arrays and {names} names")
    tensors: dict[str, np.ndarray] = {}
    for array in arrays:
        name = _name(stream)
        if name in tensors:
            raise WeightsError(f"the file holds {name!r} twice")
        tensors[name] = array
    if stream.left:
        raise WeightsError(f"{stream.left} bytes follow the last name")
    return tensors


def _name(stream: Stream) -> str:
    (length,) = stream.unpack("<Q")
    if length > _MAX_NAME:
        raise WeightsError(f"a name of {length} bytes is declared")
    name = stream.read(length).decode()
    return name.removeprefix("arg:").removeprefix("aux:")


def _array(stream: Stream) -> np.ndarray:
    shape = _shape(stream)
    _, _, code = stream.unpack("<iii")  # device type, device number, dtype
    if code not in _DTYPES:
        raise WeightsError(f"the file holds an array of unknown dtype {code}")
    return stream.array(_DTYPES[code], shape)


def _shape(stream: Stream) -> tuple[int, ...]:
    """The shape in an array header; headers with a magic number have 64-bit sizes."""
    (magic,) = stream.unpack("<I")
    if magic not in (_V1, _V2, _V3):
        return stream.unpack(f"<{_rank(magic)}I")
    if magic != _V1 and (storage := stream.unpack("<i")[0]):
        raise WeightsError(f"the file holds a sparse array, of storage type {storage}")
    (rank,) = stream.unpack("<I")
    return stream.unpack(f"<{_rank(rank, least=int(magic != _V3))}q")


def _rank(rank: int, least: int = 1) -> int:
    """Checks a rank: 0 is a scalar since V3, but before it an uninitialized array."""
    if not least <= rank <= 32:
        raise WeightsError(f"the file holds an array of {rank} axes")
    return rank
