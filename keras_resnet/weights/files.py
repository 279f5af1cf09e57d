"""The weights files of this package, with the description of their model."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.errors import WeightsError
from keras_resnet.files import atomic_write
from keras_resnet.info import MAX_TEXT, ModelInfo, parse
from keras_resnet.weights.readers import safetensors_file
from keras_resnet.weights.readers.archive import Archive

_INFO = "keras_resnet"  # the metadata or attribute that holds a ModelInfo as JSON


def write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    info: ModelInfo | None = None,
) -> None:
    """Writes {name: array} to a .safetensors file, with `info`, or to an .npz file."""
    path = Path(path)
    if path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        metadata = {_INFO: _to_json(info)} if info else None
        # save_file writes the memory of an array, whatever its strides
        dense = {name: np.asarray(it, order="C") for name, it in tensors.items()}
        with atomic_write(path) as partial:
            save_file(dense, partial, metadata=metadata)
    elif path.suffix == ".npz":
        with atomic_write(path) as partial, open(partial, "wb") as stream:
            np.savez(stream, **tensors)  # type: ignore[arg-type]
    else:
        raise WeightsError(f"{path}: must end in .safetensors, .npz or .weights.h5")


def stamp(path: str | os.PathLike[str], info: ModelInfo) -> None:
    """Adds `info` to a .weights.h5 file of Keras, which Keras can still read."""
    import h5py

    with h5py.File(path, "a") as file:
        file.attrs[_INFO] = _to_json(info)


def _to_json(info: ModelInfo) -> str:
    return json.dumps(dataclasses.asdict(info))


def read_info(path: str | os.PathLike[str], any_net: bool = False) -> ModelInfo | None:
    """The ModelInfo in a .safetensors, .weights.h5 or .keras file of this package.

    Args:
        path: the file.
        any_net: also of a net that is not of this package, whose `config` is None.

    Returns:
        None for any other file, and for a damaged one: reading its tensors raises an
        error that says what is wrong.

    Raises:
        WeightsError: if the description in the file is not a valid ModelInfo.
    """
    path = os.fspath(path)
    reader = next((_READERS[end] for end in _READERS if path.endswith(end)), None)
    if reader is None:
        return None
    try:
        text = reader(path)
    except Exception:  # the libraries raise many kinds for damaged files
        return None
    try:
        info = None if text is None else parse(text)
        if reader is _in_archive:
            info = _nested(info, "config", "info")
        found = None if info is None else ModelInfo.from_json(info)
        if found and found.config is None and not any_net:
            raise ValueError(f"it is of {found.variant}")
        return found
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: does not describe a model of keras_resnet ({error})"
        ) from error


def _nested(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _in_hdf5(path: str) -> str | None:
    import h5py

    with h5py.File(path, "r") as file:
        if _INFO not in file.attrs:
            return None
        attribute = file.attrs.get_id(_INFO)
        if attribute.shape != () or attribute.get_storage_size() > MAX_TEXT:
            return ""  # not JSON, so that `read_info` raises an error
        return str(file.attrs[_INFO])


def _in_archive(path: str) -> bytes | None:
    with open(path, "rb") as file:
        archive = Archive(file)
        if "config.json" not in archive.members:
            return None
        return archive.read("config.json", MAX_TEXT).tobytes()


_READERS = {
    ".safetensors": lambda path: safetensors_file.metadata(path, _INFO),
    ".weights.h5": _in_hdf5,
    ".keras": _in_archive,
}
