"""Reads what torch.save writes since torch 1.6: a zip of a pickle and storages."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from keras_resnet.errors import WeightsError
from keras_resnet.weights.readers import pickles, state_dicts
from keras_resnet.weights.readers.archive import Archive
from keras_resnet.weights.readers.stream import Stream, elements, widened

PICKLE = "data.pkl"
_MAX_PICKLE = 2**24  # bytes; a ResNet-200 with its optimizer has 0.3 MB

_DTYPES = {
    "BFloat16Storage": "bfloat16",
    "BoolStorage": "?",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "ShortStorage": "<i2",
}


@dataclass(frozen=True)
class _DType:
    name: str


@dataclass(frozen=True)
class _Storage:
    """The flat values of which tensors are views; bfloat16 as float32."""

    dtype: _DType
    values: np.ndarray


def read(archive: Archive) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dict, or of that in a training checkpoint.

    Returns:
        {name: array}; the arrays are read-only, strided views of the storages.

    Raises:
        WeightsError: if the pickle holds anything but tensors, or a tensor reaches
            outside its storage.
    """
    roots = [name.removesuffix(PICKLE) for name in archive.members if is_pickle(name)]
    if len(roots) != 1 or any("/code/" in name for name in archive.members):
        raise WeightsError("it is a TorchScript program, not a single state dict")
    (root,) = roots
    order = f"{root}byteorder"
    if order in archive.members and archive.read(order, 16).tobytes() != b"little":
        raise WeightsError("it was saved on a big-endian machine")
    storages: dict[str, _Storage] = {}

    def storage(identity: Any) -> _Storage:
        dtype, key, count = _identity(identity)
        if key not in storages:
            storages[key] = _storage(archive, f"{root}data/{key}", dtype, count)
        if (storages[key].dtype, len(storages[key].values)) != (dtype, count):
            raise WeightsError(f"storage {key!r} is declared in two ways")
        return storages[key]

    text: Any = archive.read(root + PICKLE, _MAX_PICKLE)
    return state_dicts.find(pickles.load(Stream(io.BytesIO(text)), _NAMES, storage))


def is_pickle(name: str) -> bool:
    """Whether a member is the pickle of torch.save, `<any folder>/data.pkl`."""
    return name.count("/") == 1 and name.endswith(f"/{PICKLE}")


def _identity(identity: Any) -> tuple[_DType, str, int]:
    """(dtype, key, number of values) of a storage's persistent id."""
    if isinstance(identity, tuple) and len(identity) == 5:
        kind, dtype, key, _, count = identity
        if (
            isinstance(kind, str)
            and kind == "storage"
            and isinstance(dtype, _DType)
            and isinstance(key, str)
            and type(count) is int
        ):
            return dtype, key, count
    raise WeightsError("a tensor's storage is not named as torch names it")


def _storage(archive: Archive, member: str, dtype: _DType, count: int) -> _Storage:
    raw = archive.read(member)
    half = dtype.name == "bfloat16"
    itemsize = 2 if half else np.dtype(dtype.name).itemsize
    if count * itemsize != len(raw):
        raise WeightsError(
            f"{member!r} has {len(raw)} bytes, not {count} values of {dtype.name}"
        )
    return _Storage(dtype, widened(raw) if half else raw.view(dtype.name))


def _tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    gradient: Any = None,
    hooks: Any = None,
    flags: Any = None,
) -> np.ndarray:
    """A tensor as torch builds it, a view of its storage."""
    if not isinstance(storage, _Storage) or type(offset) is not int:
        raise WeightsError("a tensor has no storage")
    if flags:
        raise WeightsError(
            "a tensor has a lazy negation or conjugation; call resolve_neg() and "
            "resolve_conj() before saving it"
        )
    count, values = elements(size), storage.values
    elements(stride)  # raises an error unless these are non-negative integers
    if len(size) != len(stride):
        raise WeightsError(f"a tensor of {len(size)} axes has {len(stride)} strides")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    # a tensor with more values than its storage would repeat some of them
    if offset < 0 or count > len(values) or (count and last >= len(values)):
        raise WeightsError(
            f"a tensor of shape {size}, strides {stride} and offset {offset} reaches "
            f"outside its storage of {len(values)} values"
        )
    if not count:
        return np.empty(size, values.dtype)
    steps = [step * values.itemsize for step in stride]
    return as_strided(values[offset:], size, steps, writeable=False)


def _parameter(tensor: Any, *_: Any) -> np.ndarray:
    if not isinstance(tensor, np.ndarray):
        raise WeightsError("a parameter has no tensor")
    return tensor


_NAMES: dict = {
    ("torch._utils", "_rebuild_tensor"): pickles.Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): pickles.Call(_tensor),
    ("torch._utils", "_rebuild_parameter"): pickles.Call(_parameter),
    **{("torch", name): _DType(dtype) for name, dtype in _DTYPES.items()},
}
