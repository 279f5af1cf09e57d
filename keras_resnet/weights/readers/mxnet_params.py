"""What mxnet's save_parameters, and its symbol API, write: a list of arrays and names.

Little endian: u64 0x112, u64 0, u64 n, n arrays, u64 n, n names (u64 length, UTF-8).
An array is a header that has grown over the years, a context, a dtype and its values.
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
    """The named arrays, without the "arg:" and "aux:" of the symbol API.

    Raises:
        WeightsError: for a count, shape, dtype or name that the file does not bear out.
    """
    magic, reserved, count = stream.unpack("<QQQ")
    if magic.to_bytes(8, "little") != MAGIC or reserved:
        raise WeightsError("it does not begin as mxnet's lists of arrays do")
    if count > _MAX_ARRAYS:
        raise WeightsError(f"{count} arrays are declared")
    arrays = [_array(stream) for _ in range(count)]
    (names,) = stream.unpack("<Q")
    if names != count:
        raise WeightsError(f"it has {count} arrays and {names} names")
    tensors: dict[str, np.ndarray] = {}
    for array in arrays:
        name = _name(stream)
        if name in tensors:
            raise WeightsError(f"it holds {name!r} twice")
        tensors[name] = array
    if stream.left:
        raise WeightsError(f"{stream.left} bytes follow its end")
    return tensors


def _name(stream: Stream) -> str:
    (length,) = stream.unpack("<Q")
    if length > _MAX_NAME:
        raise WeightsError(f"a name of {length} bytes is declared")
    name = stream.read(length).decode()
    return name.removeprefix("arg:").removeprefix("aux:")


def _array(stream: Stream) -> np.ndarray:
    shape = _shape(stream)
    _, _, code = stream.unpack("<iii")  # device, its number, dtype
    if code not in _DTYPES:
        raise WeightsError(f"it holds an array of unknown dtype {code}")
    return stream.array(_DTYPES[code], shape)


def _shape(stream: Stream) -> tuple[int, ...]:
    """The shape from a header of any age; one with a magic number has 64-bit sizes."""
    (magic,) = stream.unpack("<I")
    if magic not in (_V1, _V2, _V3):
        return stream.unpack(f"<{_rank(magic)}I")
    if magic != _V1 and (storage := stream.unpack("<i")[0]):
        raise WeightsError(f"it holds a sparse array, of storage type {storage}")
    (rank,) = stream.unpack("<I")
    return stream.unpack(f"<{_rank(rank, least=int(magic != _V3))}q")


def _rank(rank: int, least: int = 1) -> int:
    """The rank; 0 is a scalar since V3, and was an array not yet made before."""
    if not least <= rank <= 32:
        raise WeightsError(f"it holds an array of {rank} axes")
    return rank
