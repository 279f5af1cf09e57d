"""The numbered versions of a model folder, as TensorFlow Serving reads their names."""

from __future__ import annotations

import os
from pathlib import Path

LAST = 2**63 - 1  # TensorFlow Serving's numbers are of 64 bits


def version_folders(folder: str | os.PathLike[str]) -> dict[int, Path]:
    """{version: its folder}, rising; a model folder that is missing has none.

    Zeros may come first: "00000123" is version 123. Of several names of one number the
    last in alphabetical order counts. A number beyond `LAST` is no version. (All of it
    as in TensorFlow Serving's file_system_storage_path_source.cc.)

    Raises:
        OSError: a folder that cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    # int takes no more than 4300 digits, and no name has more than 255
    folders = {
        int(name): Path(folder, name)
        for name in names
        if name.isascii() and name.isdecimal()
    }
    return {number: folders[number] for number in sorted(folders) if number <= LAST}


def versions(folder: str | os.PathLike[str]) -> list[int]:
    """The version numbers in a model folder, rising."""
    return list(version_folders(folder))
