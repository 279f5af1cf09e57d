"""A binary file that never returns, or allocates memory for, more than it holds."""

from __future__ import annotations

import math
import os
import re
import struct
from typing import Any, BinaryIO

import numpy as np

from keras_resnet.errors import WeightsError

_MAX_LINE = 256  # bytes; the lines in these formats are names of modules


class Stream:
    """Reads of a seekable file, each checked against what is left of it.

    Has the `read`, `readline` and `tell` that pickletools asks of a file.

    Raises:
        WeightsError: from every method that is asked for more than is left.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file: Any = file
        self.left = file.seek(0, os.SEEK_END)
        self._end = self.left
        file.seek(0)

    def tell(self) -> int:
        """Bytes read so far."""
        return self._end - self.left

    def read(self, count: int) -> bytes:
        """The next `count` bytes."""
        self._take(count)
        return self._file.read(count)

    def skip(self, count: int) -> None:
        """Passes over the next `count` bytes."""
        self._take(count)
        self._file.seek(count, os.SEEK_CUR)

    def readline(self) -> bytes:
        """The next line, with its line feed."""
        line = self._file.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            raise WeightsError(f"no end of line after byte {self.tell()}")
        self.left -= len(line)
        return line

    def unpack(self, layout: str) -> tuple[Any, ...]:
        """The next values of a `struct` layout."""
        return struct.unpack(layout, self.read(struct.calcsize(layout)))

    def array(self, code: str, shape: tuple[int, ...]) -> np.ndarray:
        """The next bytes as an array, read straight into its memory.

        Args:
            code: of a numpy dtype, or "bfloat16", which becomes float32.
            shape: of the array.
        """
        dtype = np.dtype("<u2" if code == "bfloat16" else code)
        self._take(elements(shape) * dtype.itemsize)
        array = np.empty(shape, dtype)
        self._file.readinto(array.reshape(-1).view(np.uint8))
        return widened(array) if code == "bfloat16" else array

    def _take(self, count: int) -> None:
        if not 0 <= count <= self.left:
            raise WeightsError(
                f"{count} bytes are declared at {self.tell()}, of {self.left} left"
            )
        self.left -= count


def elements(shape: Any) -> int:
    """How many values an array of this shape has.

    Raises:
        WeightsError: unless it is a tuple of at most 32 integers of at least 0 whose
            product numpy can address.
    """
    if (
        not isinstance(shape, tuple)
        or len(shape) > 32
        or any(type(size) is not int or size < 0 for size in shape)
        or math.prod(max(size, 1) for size in shape) >= 2**48
    ):
        raise WeightsError("a tensor's shape is not a tuple of sane sizes")
    return math.prod(shape)


def plain(code: str) -> np.dtype:
    """The dtype of a code such as "<f4", of real numbers or truth values.

    Raises:
        WeightsError: for objects, strings, records, complex and extended numbers.
    """
    if not re.fullmatch("[<>|=]?(f[248]|[iu][1248]|b1)", code):
        raise WeightsError(f"a tensor is of dtype {code[:80]!r}, not of real numbers")
    return np.dtype(code)


def widened(bfloat16: np.ndarray) -> np.ndarray:
    """bfloat16, as any dtype of 16 bits holds its patterns, as float32."""
    return (bfloat16.view("<u2").astype("<u4") << 16).view("<f4")
