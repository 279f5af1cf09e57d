"""Reads what paddle.save writes: a pickle of numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_resnet.errors import WeightsError
from keras_resnet.weights.readers import pickles, state_dicts
from keras_resnet.weights.readers.stream import Stream, elements, plain

_NAME_TABLE = "StructuredToParameterName@@"  # an entry with Paddle's internal names


def read(stream: Stream) -> dict[str, np.ndarray]:
    """Returns the arrays of {name: array} or {name: (Paddle's internal name, array)}.

    Returns:
        {name: array}; arrays may be read-only.

    Raises:
        WeightsError: for a pickle of anything but arrays.
    """
    value = pickles.load(stream, _NAMES)
    if isinstance(value, dict):
        value.pop(_NAME_TABLE, None)
    return state_dicts.find(value, _array)


def _array(entry: Any) -> Any:
    if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
        entry = entry[1]
    return entry.values if isinstance(entry, _NDArray) else entry


class _DType(pickles.Built):
    """Stands for numpy.dtype(code); the pickle sets its state, with the byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = code, "="

    def build(self, state: Any) -> None:
        if (
            not isinstance(state, tuple)
            or len(state) < 5
            or state[1] not in ("<", ">", "|", "=")
            or any(part is not None for part in state[2:5])
        ):
            raise WeightsError("an array's dtype is not a plain one")
        self.order = state[1]

    def plain(self) -> np.dtype:
        if not isinstance(self.code, str):
            raise WeightsError("an array's dtype has no name")
        return plain(self.order + self.code.lstrip("<>|="))


class _NDArray(pickles.Built):
    """Stands for an array; the pickle sets its state: shape, dtype, order and bytes."""

    values: np.ndarray | None = None

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise WeightsError("an array's state is not as numpy writes it")
        _, shape, dtype, fortran, data = state
        if isinstance(data, str):  # written by Python 2, in which str is bytes
            data = data.encode("latin-1")
        self.values = _values(data, dtype, shape, fortran is True)
        self.nbytes = self.values.nbytes


def _values(data: Any, dtype: Any, shape: Any, fortran: bool) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(data, bytes | bytearray):
        raise WeightsError("an array does not hold numbers")
    count, kind = elements(shape), dtype.plain()
    if count * kind.itemsize != len(data):
        raise WeightsError(
            f"an array of shape {shape} and dtype {kind.str} has {len(data)} bytes"
        )
    return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _NDArray:
    """A contiguous array, as numpy pickles it in protocol 5."""
    array = _NDArray()
    array.values = _values(data, dtype, shape, order == "F")
    return array


def _reconstruct(kind: Any, *_: Any) -> _NDArray:
    if kind is not _NDARRAY:
        raise WeightsError("an array is of a class other than numpy.ndarray")
    return _NDArray()


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes that are not empty, as Python pickles them in protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise WeightsError("bytes are not pickled as Python pickles them")
    return text.encode("latin-1")


def _tuple(values: Any) -> tuple[Any, ...]:
    if not isinstance(values, tuple):
        raise WeightsError("a tuple is made of another object than a tuple")
    return values


_NDARRAY = object()  # stands for the class numpy.ndarray
_NAMES: dict = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): pickles.Call(_DType),
    ("_codecs", "encode"): pickles.Call(_encode),
    # `bytes` itself would allocate as much as an argument in the pickle says
    ("__builtin__", "bytes"): pickles.Call(lambda: b""),
    ("builtins", "tuple"): pickles.Call(_tuple),
    ("__builtin__", "tuple"): pickles.Call(_tuple),
}
for _core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    _NAMES[f"{_core}.multiarray", "_reconstruct"] = pickles.Call(_reconstruct)
    _NAMES[f"{_core}.numeric", "_frombuffer"] = pickles.Call(_from_buffer)
