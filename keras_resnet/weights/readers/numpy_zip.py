"""Reads what numpy.savez writes: a zip of .npy files, which may not hold objects."""

from __future__ import annotations

import re

import numpy as np

from keras_resnet.errors import WeightsError
from keras_resnet.weights.readers.archive import Archive
from keras_resnet.weights.readers.stream import elements, plain, widened

# the bfloat16 of ml_dtypes, which numpy writes as two opaque bytes
_BFLOAT16 = ("<V2", "|V2")
# the header exactly as numpy writes it, so that it need not be evaluated as Python
_HEADER = re.compile(
    r"\{'descr': '([^']{2,80})', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,19}, ?)*\d{0,19})\), \} *\n"
)


def read(archive: Archive) -> dict[str, np.ndarray]:
    """Returns {name: array}; a name is that of the member without ".npy".

    Raises:
        WeightsError: for a member that is not an array of numbers, or whose size does
            not fit its header.
    """
    tensors = {}
    for member in archive.members:
        name = member.removesuffix(".npy")
        try:
            tensors[name] = _array(archive.read(member))
        except WeightsError as error:
            raise WeightsError(f"array {name!r}: {error}") from error
    return tensors


def _array(data: np.ndarray) -> np.ndarray:
    """The array in the bytes of a .npy file: a view of them, except for bfloat16."""
    start = data[:12].tobytes()
    length = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4}.get(start[:8])
    if length is None:
        raise WeightsError("it is not a .npy file of version 1 or 2")
    begin = 8 + length
    end = begin + int.from_bytes(start[8:begin], "little")
    header = _HEADER.fullmatch(
        data[begin : min(end, 10_000)].tobytes().decode("latin-1")
    )
    if header is None:
        raise WeightsError("its header is not as numpy writes it")
    half = header[1] in _BFLOAT16
    dtype = np.dtype("<u2") if half else plain(header[1])
    shape = tuple(int(size) for size in re.findall(r"\d+", header[3]))
    if elements(shape) * dtype.itemsize != len(data) - end:
        raise WeightsError(
            f"shape {shape} of dtype {dtype.str} is declared, but "
            f"{len(data) - end} bytes follow"
        )
    values = np.frombuffer(data[end:], dtype)
    values = widened(values) if half else values
    return values.reshape(shape, order="F" if header[2] == "True" else "C")
