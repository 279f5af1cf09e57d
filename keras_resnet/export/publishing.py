"""Adds a version to a model folder atomically."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_resnet import files
from keras_resnet.errors import ModelError
from keras_resnet.export.formats import FILES
from keras_resnet.export.numbering import LAST, version_folders, versions

_PARTIAL = ".export."  # prefix of the temporary folder of an export


@contextlib.contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Creates a hidden temporary folder in `folder`, and removes it at the end.

    A lock lets only one process at a time export to `folder`, where the file system has
    locks. What killed exports left behind is removed.
    """
    import fcntl  # here, because Windows lacks it and the rest of the package works

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    partial = None
    try:
        # without a lock, `publish` is still safe, but leftovers may be in use
        if files.lock(handle, fcntl.LOCK_EX):
            for leftover in filter(_is_leftover, folder.iterdir()):
                shutil.rmtree(leftover)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder))
        yield partial
        files.sync(folder)
    finally:
        if partial:
            shutil.rmtree(partial, ignore_errors=True)
        os.close(handle)


def _is_leftover(path: Path) -> bool:
    """Returns whether this is the temporary folder of a killed export.

    Both its name and its content must match, because users may keep hidden folders
    beside the versions.
    """
    if path.is_symlink() or not path.is_dir():
        return False
    # the names that tempfile.mkdtemp makes
    named = re.fullmatch(re.escape(_PARTIAL) + "[a-z0-9_]{8}", path.name)
    return bool(named) and {entry.name for entry in path.iterdir()} <= {"version"}


def publish(version: Path, folder: Path) -> Path:
    """Moves a complete version into the model folder, and returns its new path.

    The version gets the number after the highest one. The move is a single rename,
    because a server that polls the folder must never see an incomplete version.

    Raises:
        ModelError: the folder has the last possible version.
    """
    for path in [*version.rglob("*"), version]:
        files.sync(path)
    number = 0
    while True:
        # `number` counts up, because a file, which is no version, may have the name
        number = max(number, *versions(folder), 0) + 1
        if number > LAST:
            raise _no_number_left(folder)
        target = folder / str(number)
        try:
            os.rename(version, target)
        except OSError:
            if not target.exists():  # otherwise try the next number
                raise
        else:
            return target


def check_versions(folder: Path, format: str) -> None:
    """Checks that a version of this format can be added to a model folder.

    All versions must have the same format, because a server that polls the folder
    expects its newest version to be a SavedModel.

    Raises:
        ModelError: the folder has a version of another format, or the last possible
            version.
    """
    for number, version in version_folders(folder).items():
        if number == LAST:
            raise _no_number_left(folder)
        for other, file in FILES.items():
            if other != format and (version / file).is_file():
                raise ModelError(
                    f"{folder}: version {number} is of format={other!r}; export "
                    f"format={format!r} to another folder"
                )


def _no_number_left(folder: Path) -> ModelError:
    return ModelError(
        f"{folder}: has version {LAST}, the last possible one; give another "
        "folder, or rename that version to a lower number"
    )
