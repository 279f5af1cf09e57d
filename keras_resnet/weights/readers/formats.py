"""Recognizes the format of a weights file by its first bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from keras_resnet.errors import WeightsError
from keras_resnet.weights.readers import (
    hdf5,
    mxnet_params,
    numpy_zip,
    paddle_pickle,
    safetensors_file,
    tf_checkpoint,
    torch_zip,
)
from keras_resnet.weights.readers.archive import Archive
from keras_resnet.weights.readers.stream import Stream

_LEGACY_TORCH = bytes.fromhex("8a0a6cfc9c46f9206aa850192e")  # its magic number, pickled
_T = TypeVar("_T")


@dataclass(frozen=True)
class Format:
    """A format of weights files, and how to read it."""

    title: str
    read: Callable[[str], dict[str, Any]]  # path -> {name: array or OnDisk}
    remedy: str  # the call that writes such a file


def recognise(path: str) -> Format:
    """The format of a file, or of the TensorFlow checkpoint with this prefix.

    Raises:
        WeightsError: if the file is missing or its format is unknown, with a remedy.
        zipfile.BadZipFile: if the file is a damaged zip.
    """
    if not os.path.isfile(path):
        if os.path.isfile(f"{path}.index"):
            return _TENSORFLOW
        raise WeightsError(
            "no such file, nor a TensorFlow checkpoint with this prefix: give the path "
            "of a file, or of a checkpoint without .index or .data-..."
        )
    with open(path, "rb") as file:
        head = file.read(32)
        if head.startswith(b"PK\x03\x04"):
            return _recognize_zip(Archive(file).members)
    if head[4:9] == b"\0\0\0\0{":  # first, since a length may look like a magic number
        return _SAFETENSORS
    if head.startswith(hdf5.MAGIC):
        return _HDF5
    if head.startswith(mxnet_params.MAGIC):
        return _MXNET
    if head[:1] == b"\x80" and _LEGACY_TORCH in head:
        raise WeightsError(
            "written by torch before 1.6; convert it with a newer torch: "
            "torch.save(torch.load(old, weights_only=True), new)"
        )
    if head[:1] == b"\x80":
        return _PADDLE
    if path.endswith(".safetensors"):  # its reader raises a clear error
        return _SAFETENSORS
    raise WeightsError(
        f"unknown format, which begins with {head[:16]!r}: give a weights file of "
        "safetensors, torch, mxnet, Paddle, numpy (.npz), Keras or TensorFlow"
    )


def _recognize_zip(members: Iterable[str]) -> Format:
    if any(map(torch_zip.is_pickle, members)):
        return _TORCH
    if hdf5.MEMBER in members:
        return _KERAS
    if members and all(name.endswith(".npy") for name in members):
        return _NUMPY
    raise WeightsError("a zip with weights of neither torch, numpy nor Keras")


def _opened(
    reader: Callable[[_T], dict[str, Any]], wrap: Callable[[BinaryIO], _T]
) -> Callable[[str], dict[str, Any]]:
    """A function of a path that calls `reader` with the opened and wrapped file."""

    def read(path: str) -> dict[str, Any]:
        with open(path, "rb") as file:
            return reader(wrap(file))

    return read


_SAFETENSORS = Format(
    "safetensors", safetensors_file.read, "safetensors.numpy.save_file(tensors, path)"
)
_TORCH = Format(
    "a torch zip",
    _opened(torch_zip.read, Archive),
    "torch.save(model.state_dict(), path)",
)
_MXNET = Format(
    "mxnet parameters", _opened(mxnet_params.read, Stream), "net.save_parameters(path)"
)
_PADDLE = Format(
    "a Paddle pickle",
    _opened(paddle_pickle.read, Stream),
    "paddle.save(model.state_dict(), path)",
)
_NUMPY = Format("npz", _opened(numpy_zip.read, Archive), "numpy.savez(path, **tensors)")
_HDF5 = Format(
    "HDF5", _opened(hdf5.read, lambda file: file), "model.save_weights(path.weights.h5)"
)
_KERAS = Format(
    "a Keras archive", _opened(hdf5.read_archive, Archive), "model.save(path.keras)"
)
_TENSORFLOW = Format(
    "a TensorFlow checkpoint",
    tf_checkpoint.read,
    "tf.train.Saver().save(session, prefix)",
)
