"""Files that we write: whole or not at all, with what a model knows beside."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_resnet.errors import WeightsError
from keras_resnet.files import atomic_write
from keras_resnet.info import MAX_TEXT, ModelInfo, parse
from keras_resnet.weights.readers import safetensors_file
from keras_resnet.weights.readers.archive import Archive

_INFO = "keras_resnet"  # the metadata or attribute that holds a ModelInfo as JSON


def write(
    path, tensors: Mapping[str, np.ndarray], info: ModelInfo | None = None
) -> None:
    """Writes {name: array} as .safetensors, with `info`, or as .npz, without it."""
    path = Path(path)
    if path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        metadata = {_INFO: _as_json(info)} if info else None
        with atomic_write(path) as partial:
            save_file(dict(tensors), partial, metadata=metadata)
    elif path.suffix == ".npz":
        with atomic_write(path) as partial, open(partial, "wb") as stream:
            np.savez(stream, **tensors)  # type: ignore[arg-type]
    else:
        raise WeightsError(f"{path}: must end in .safetensors, .npz or .weights.h5")


def stamp(path, info: ModelInfo) -> None:
    """Adds `info` to a .weights.h5 that Keras wrote; Keras does not mind."""
    import h5py

    with h5py.File(path, "a") as file:
        file.attrs[_INFO] = _as_json(info)


def _as_json(info):
    return json.dumps(dataclasses.asdict(info))


def read_info(path) -> ModelInfo | None:
    """What a .safetensors, .weights.h5 or .keras of ours says of its model.

    Returns:
        None for files of others; and for a damaged one, of which reading its tensors
        says what is wrong.

    Raises:
        WeightsError: what the file says is no ModelInfo.
    """
    path = os.fspath(path)
    reader = next((_READERS[end] for end in _READERS if path.endswith(end)), None)
    if reader is None:
        return None
    try:
        info = _text_of(path, reader)
        if info is not None:
            info = parse(info)
        if reader is _in_archive:
            info = _of_model(info)
        return None if info is None else ModelInfo.from_json(info)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: describes no net of ours ({error})") from error


def _text_of(path, reader):
    try:
        return reader(path)
    except Exception:  # damaged, of which the libraries raise what they like
        return None


def _of_model(config):
    """What the config.json of a .keras file says of the whole model."""
    inner = config.get("config") if isinstance(config, dict) else None
    return inner.get("info") if isinstance(inner, dict) else None


def _in_hdf5(path):
    import h5py

    with h5py.File(path, "r") as file:
        if _INFO not in file.attrs:
            return None
        attribute = file.attrs.get_id(_INFO)
        if attribute.shape != () or attribute.get_storage_size() > MAX_TEXT:
            return ""  # which is no JSON
        return str(file.attrs[_INFO])


def _in_archive(path):
    with open(path, "rb") as file:
        archive = Archive(file)
        if "config.json" not in archive.members:
            return None
        return archive.read("config.json", MAX_TEXT).tobytes()


def _in_safetensors(path):
    return safetensors_file.metadata(path, _INFO)


_READERS = {
    ".safetensors": _in_safetensors,
    ".weights.h5": _in_hdf5,
    ".keras": _in_archive,
}
