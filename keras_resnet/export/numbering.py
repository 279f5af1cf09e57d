"""Versions and names of model folders, by the rules of TensorFlow Serving."""

from __future__ import annotations

import os
import re
from pathlib import Path

LAST = 2**63 - 1  # TensorFlow Serving's version numbers are 64-bit integers


def version_folders(folder: str | os.PathLike[str]) -> dict[int, Path]:
    """Returns {version: its folder} in ascending order; empty if `folder` is missing.

    The rules are those of TensorFlow Serving's file_system_storage_path_source.cc.
    Names may have leading zeros: "00000123" is version 123. If several names have the
    same number, the last one in alphabetical order is used. Numbers greater than `LAST`
    are ignored.

    Raises:
        OSError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    # within int's limit of 4300 digits, because names have at most 255 characters
    folders = {
        int(name): Path(folder, name)
        for name in names
        if name.isascii() and name.isdecimal()
    }
    return {number: folders[number] for number in sorted(folders) if number <= LAST}


def versions(folder: str | os.PathLike[str]) -> list[int]:
    """Returns the version numbers in a model folder in ascending order."""
    return list(version_folders(folder))


def model_name(folder: str | os.PathLike[str]) -> str:
    """Returns the folder's name with _ for characters that model names do not allow."""
    return re.sub(r"[^\w.-]+", "_", Path(folder).resolve().name, flags=re.ASCII)
