"""Reads a zip file without trusting its directory."""

from __future__ import annotations

import zipfile
from typing import Any, BinaryIO

import numpy as np

from keras_resnet.errors import WeightsError

_MAX_DIRECTORY = 2**22  # bytes; enough for 30,000 members with usual names
_CHUNK = 2**20  # bytes decompressed at a time


def allowance(size: int) -> int:
    """The most bytes of tensors that a file of `size` bytes may contain."""
    return 2**26 + 20 * size


class Archive:
    """The members of a zip file, read into memory one by one, with a check of the CRC.

    Args:
        file: a seekable binary file, to be kept open as long as the Archive is used.

    Raises:
        WeightsError: for a name that occurs twice or leads out of the archive, for
            members that overlap, are encrypted, or use a compression other than
            deflate, and for members that would expand to more than `allowance`.
        zipfile.BadZipFile: if the file is not a zip file.
    """

    def __init__(self, file: BinaryIO) -> None:
        size = file.seek(0, 2)
        limited: Any = _LimitedFile(file)
        self._zip = zipfile.ZipFile(limited)
        limited.limit = size
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            self._add(info)
        infos = self.members.values()
        if sum(info.compress_size for info in infos) > size:
            raise WeightsError("members of the zip overlap")
        if (declared := sum(info.file_size for info in infos)) > allowance(size):
            raise WeightsError(f"a zip of {size} bytes declares {declared} unpacked")

    def _add(self, info: zipfile.ZipInfo) -> None:
        name = info.filename
        if name in self.members:
            raise WeightsError(f"the zip holds {name!r} twice")
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise WeightsError(f"the zip holds {name!r}, a name that leads out of it")
        if info.flag_bits & 1:
            raise WeightsError(f"member {name!r} of the zip is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise WeightsError(
                f"member {name!r} of the zip uses a compression other than deflate"
            )
        if min(info.compress_size, info.file_size, info.header_offset) < 0:
            raise WeightsError(f"member {name!r} of the zip has a negative size")
        self.members[name] = info

    def read(self, name: str, limit: int | None = None) -> np.ndarray:
        """Returns the member with this exact name as uint8 [size].

        Raises:
            WeightsError: if there is no such member, it is larger than `limit` bytes,
                or it ends before its declared size.
            zipfile.BadZipFile: if its CRC is wrong.
        """
        if name not in self.members:
            raise WeightsError(f"the zip has no member {name!r}")
        info = self.members[name]
        if limit is not None and info.file_size > limit:
            raise WeightsError(f"member {name!r} of the zip has {info.file_size} bytes")
        data = np.empty(info.file_size, np.uint8)
        filled = 0
        with self._zip.open(info) as member:
            while chunk := member.read(_CHUNK):
                data[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
                filled += len(chunk)
        if filled != info.file_size:
            raise WeightsError(f"member {name!r} of the zip is truncated")
        return data


class _LimitedFile:
    """A file with a limit on each read: zipfile reads the whole directory at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.limit = _MAX_DIRECTORY
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(min(count, self.limit + 1) if count >= 0 else self.limit)
        if len(data) > self.limit:
            raise WeightsError(f"the zip's directory has {count} bytes")
        return data
