"""What torch.save writes since 1.6: a zip of a pickle and of each storage's bytes."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from keras_resnet.errors import WeightsError
from keras_resnet.weights.readers import pickles, state_dicts
from keras_resnet.weights.readers.stream import Stream, bfloat16, elements

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
    """The flat values that tensors are views of; bfloat16 as float32."""

    dtype: _DType
    values: np.ndarray


def read(archive) -> dict[str, np.ndarray]:
    """The tensors of a state dict, or of the one in a training checkpoint.

    Args:
        archive: an Archive.

    Returns:
        {name: array}; arrays are read-only views of the storages, as strided.

    Raises:
        WeightsError: for a pickle that is not of tensors alone, and for a tensor that
            does not lie within its storage.
    """
    roots = [name.removesuffix(PICKLE) for name in archive.members if is_pickle(name)]
    if len(roots) != 1 or any("/code/" in name for name in archive.members):
        raise WeightsError("it is a program (TorchScript), not one state dict")
    (root,) = roots
    order = f"{root}byteorder"
    if order in archive.members and archive.read(order, 16).tobytes() != b"little":
        raise WeightsError("it was saved on a big-endian machine")
    storages: dict[str, _Storage] = {}

    def storage(identity):
        dtype, key, count = _identity(identity)
        if key not in storages:
            storages[key] = _storage(archive, f"{root}data/{key}", dtype, count)
        if (storages[key].dtype, len(storages[key].values)) != (dtype, count):
            raise WeightsError(f"storage {key!r} is declared in two ways")
        return storages[key]

    text = io.BytesIO(archive.read(root + PICKLE, _MAX_PICKLE))
    return state_dicts.find(pickles.load(Stream(text), _NAMES, storage))


def is_pickle(name: str) -> bool:
    """Whether a member is the pickle of torch.save, `<any folder>/data.pkl`."""
    return name.count("/") == 1 and name.endswith(f"/{PICKLE}")


def _identity(identity):
    """(dtype, key, number of values) of a persistent id."""
    if not isinstance(identity, tuple) or len(identity) != 5:
        raise WeightsError("a tensor's storage is not named as torch names it")
    kind, dtype, key, _, count = identity
    if (
        kind != "storage"
        or not isinstance(dtype, _DType)
        or not isinstance(key, str)
        or type(count) is not int
    ):
        raise WeightsError("a tensor's storage is not named as torch names it")
    return dtype, key, count


def _storage(archive, member, dtype, count):
    raw = archive.read(member)
    half = dtype.name == "bfloat16"
    itemsize = 2 if half else np.dtype(dtype.name).itemsize
    if count * itemsize != len(raw):
        raise WeightsError(
            f"{member!r} has {len(raw)} bytes, not {count} values of {dtype.name}"
        )
    return _Storage(dtype, bfloat16(raw) if half else raw.view(dtype.name))


def _tensor(storage, offset, size, stride, gradient=None, hooks=None, flags=None):
    """A tensor as torch rebuilds it: a window into its storage."""
    if not isinstance(storage, _Storage) or type(offset) is not int:
        raise WeightsError("a tensor has no storage")
    if flags:
        raise WeightsError("a tensor is yet to be negated or conjugated")
    count, values = elements(size), storage.values
    elements(stride)  # is a tuple of integers of at least 0
    if len(size) != len(stride):
        raise WeightsError(f"a tensor of {len(size)} axes has {len(stride)} strides")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    # more values than the storage has would be one value many times
    if offset < 0 or count > len(values) or (count and last >= len(values)):
        raise WeightsError(
            f"a tensor of shape {size}, strides {stride} and offset {offset} leaves "
            f"its storage of {len(values)}"
        )
    if not count:
        return np.empty(size, values.dtype)
    steps = [step * values.itemsize for step in stride]
    return as_strided(values[offset:], size, steps, writeable=False)


def _parameter(tensor, *_):
    if not isinstance(tensor, np.ndarray):
        raise WeightsError("a parameter has no tensor")
    return tensor


_NAMES: dict = {
    ("torch._utils", "_rebuild_tensor"): pickles.Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): pickles.Call(_tensor),
    ("torch._utils", "_rebuild_parameter"): pickles.Call(_parameter),
    **{("torch", name): _DType(dtype) for name, dtype in _DTYPES.items()},
}
