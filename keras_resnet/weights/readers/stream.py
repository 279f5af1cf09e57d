"""A binary file whose reads never allocate more memory than it has bytes."""

from __future__ import annotations

import math
import os
import re
import struct
from typing import Any, BinaryIO

import numpy as np

from keras_resnet.errors import WeightsError

_MAX_LINE = 256  # bytes; lines in these formats are names of modules


class Stream:
    """A seekable file, each read of which is checked against the bytes that are left.

    It has the methods `read`, `readline` and `tell`, which pickletools needs.

    Raises:
        WeightsError: by every method, if it is asked for more bytes than are left.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file: Any = file
        self.left = file.seek(0, os.SEEK_END)
        self._end = self.left
        file.seek(0)

    def tell(self) -> int:
        """The number of bytes read so far."""
        return self._end - self.left

    def read(self, count: int) -> bytes:
        """Returns the next `count` bytes."""
        self._take(count)
        return self._file.read(count)

    def skip(self, count: int) -> None:
        """Skips the next `count` bytes."""
        self._take(count)
        self._file.seek(count, os.SEEK_CUR)

    def readline(self) -> bytes:
        """Returns the next line, with its line feed."""
        line = self._file.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            raise WeightsError(f"no end of line after byte {self.tell()}")
        self.left -= len(line)
        return line

    def unpack(self, layout: str) -> tuple[Any, ...]:
        """Returns the next values, in a layout of the module struct."""
        return struct.unpack(layout, self.read(struct.calcsize(layout)))

    def array(self, code: str, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the next bytes as an array, read directly into its memory.

        Args:
            code: the code of a numpy dtype, or "bfloat16", which becomes float32.
            shape: the shape of the array.
        """
        dtype = np.dtype("<u2" if code == "bfloat16" else code)
        self._take(elements(shape) * dtype.itemsize)
        array = np.empty(shape, dtype)
        self._file.readinto(array.reshape(-1).view(np.uint8))
        return widened(array) if code == "bfloat16" else array

    def _take(self, count: int) -> None:
        if not 0 <= count <= self.left:
            raise WeightsError(
                f"{count} bytes are declared at {self.tell()}, but {self.left} are left"
            )
        self.left -= count


def elements(shape: Any) -> int:
    """The number of values in an array of this shape.

    Raises:
        WeightsError: unless it is a tuple of at most 32 non-negative integers whose
            product is less than 2**48.
    """
    if (
        not isinstance(shape, tuple)
        or len(shape) > 32
        or any(type(size) is not int or size < 0 for size in shape)
        or math.prod(max(size, 1) for size in shape) >= 2**48
    ):
        raise WeightsError("a tensor's shape is not a tuple of valid sizes")
    return math.prod(shape)


def plain(code: str) -> np.dtype:
    """The dtype of a code such as "<f4", which must be of real numbers or bools.

    Raises:
        WeightsError: for objects, strings, records, complex and extended numbers.
    """
    if not re.fullmatch("[<>|=]?(f[248]|[iu][1248]|b1)", code):
        raise WeightsError(f"a tensor is of dtype {code[:80]!r}, not real numbers")
    return np.dtype(code)


def widened(bfloat16: np.ndarray) -> np.ndarray:
    """Converts bfloat16 values, held by an array of any 16-bit dtype, to float32."""
    return (bfloat16.view("<u2").astype("<u4") << 16).view("<f4")
