"""Files that we write: whole or not at all, with what a model knows beside."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_resnet.weights.errors import WeightsError

_INFO = "keras_resnet"  # the metadata or attribute that holds a ModelInfo as JSON
# what a file system answers that has no such thing as a lock, or a flush of a folder
UNSUPPORTED = {
    getattr(errno, name)
    for name in ("EINVAL", "ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP")
}
_told: set[int | None] = set()  # which of them were said
_MAX_CONFIG = 2**24  # bytes of a .keras file's config.json


@contextlib.contextmanager
def aside(path):
    """A hidden path beside `path`, which takes its place when all went well."""
    path = Path(path)
    partial = path.with_name(f".partial.{path.name}")  # Keras minds the ending
    try:
        yield partial
        with open(partial, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:  # Ctrl-C too
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path) -> None:
    """Flushes a file, or the names in a folder, to the disk.

    Where the file system cannot, that is a line on stderr, once.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        if error.errno not in _told:
            _told.add(error.errno)
            print(
                f"{path}: its file system cannot flush it to the disk "
                f"({error.strerror}); a power cut may lose what is written last",
                file=sys.stderr,
            )
    finally:
        os.close(descriptor)


def write(path, tensors: Mapping[str, np.ndarray], info: dict | None = None) -> None:
    """Writes {name: array} as .safetensors, with `info`, or as .npz, without it."""
    path = Path(path)
    if path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        metadata = {_INFO: json.dumps(info)} if info else None
        with aside(path) as partial:
            save_file(dict(tensors), partial, metadata=metadata)
    elif path.suffix == ".npz":
        with aside(path) as partial, open(partial, "wb") as stream:
            np.savez(stream, **tensors)  # type: ignore[arg-type]
    else:
        raise WeightsError(f"{path}: must end in .safetensors, .npz or .weights.h5")


def stamp(path, info: dict) -> None:
    """Adds `info` to a .weights.h5 that Keras wrote; Keras does not mind."""
    import h5py

    with h5py.File(path, "a") as file:
        file.attrs[_INFO] = json.dumps(info)


def read_info(path) -> dict | None:
    """The info in a .safetensors, .weights.h5 or .keras of ours; None elsewhere."""
    path = os.fspath(path)
    try:
        if path.endswith(".safetensors"):
            from safetensors import safe_open

            with safe_open(path, "numpy") as file:
                text = (file.metadata() or {}).get(_INFO)
        elif path.endswith(".weights.h5"):
            import h5py

            with h5py.File(path, "r") as file:
                text = file.attrs.get(_INFO)
        elif path.endswith(".keras"):
            with zipfile.ZipFile(path) as file:
                if file.getinfo("config.json").file_size > _MAX_CONFIG:
                    return None
                text = json.dumps(
                    json.loads(file.read("config.json"))["config"]["info"]
                )
        else:
            return None
        info = json.loads(text) if isinstance(text, str) else None
    except Exception:  # a damaged file: reading its tensors says what is wrong
        return None
    return info if isinstance(info, dict) else None
