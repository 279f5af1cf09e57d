"""Adds a version to a model folder: whole, or not at all."""

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

_PARTIAL = ".export."  # and eight letters: the folder of an unfinished export


@contextlib.contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder in `folder`, removed afterwards; one export at a time."""
    import fcntl  # not on Windows, where the rest of the package works

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    partial = None
    try:
        # `publish` is safe without a lock too
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
    """Whether a killed export left this: it has its name, and nothing else in it.

    Users may keep hidden folders beside the versions.
    """
    if path.is_symlink() or not path.is_dir():
        return False
    # as tempfile.mkdtemp names it
    named = re.fullmatch(re.escape(_PARTIAL) + "[a-z0-9_]{8}", path.name)
    return bool(named) and {it.name for it in path.iterdir()} <= {"version"}


def publish(version: Path, folder: Path) -> Path:
    """Renames a whole version to the next number; a server polls the folder."""
    for path in [*version.rglob("*"), version]:
        files.sync(path)
    number = 0
    while True:
        # greater than the name of a mere file too, which is no version
        number = max(number, *versions(folder), 0) + 1
        if number > LAST:
            raise _has_no_more(folder)
        target = folder / str(number)
        try:
            os.rename(version, target)
        except OSError:
            if not target.exists():  # else another machine's export was faster
                raise
        else:
            return target


def check_versions(folder: Path, format: str) -> None:
    """A server that polls a folder takes its newest version for a SavedModel."""
    for number, version in version_folders(folder).items():
        if number == LAST:
            raise _has_no_more(folder)
        for other, file in FILES.items():
            if other != format and (version / file).is_file():
                raise ModelError(
                    f"{folder}: version {number} is of format={other!r}; must be "
                    f"another folder for {format!r}"
                )


def _has_no_more(folder: Path) -> ModelError:
    return ModelError(
        f"{folder}: has version {LAST}, the last possible one; give another "
        "folder, or give that version another number"
    )
