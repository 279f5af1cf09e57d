"""Calls TensorFlow's C library with ctypes, and converts NumPy arrays to tensors."""

import contextlib
import ctypes
import functools
import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.errors import SavedModelError
from keras_resnet.export.metagraph import DTYPES

_CODES = {name: code for code, name in DTYPES.items()}
# the letters for the types of results and arguments in _PROTOTYPES
_TYPES = {
    "p": ctypes.c_void_p,
    "i": ctypes.c_int,
    "l": ctypes.c_int64,
    "z": ctypes.c_size_t,
    "s": ctypes.c_char_p,
    "v": None,
}
# for each C function: its name, its result, and its arguments, if it has any
_PROTOTYPES = """
TF_AllocateTensor p ipiz; TF_CloseSession v pp; TF_DeleteBuffer v p; TF_DeleteGraph v p;
TF_DeleteSession v pp; TF_DeleteSessionOptions v p; TF_DeleteStatus v p;
TF_DeleteTensor v p; TF_Dim l pi; TF_GetCode i p; TF_GraphOperationByName p ps;
TF_LoadSessionFromSavedModel p ppspippp; TF_Message s p; TF_NewBuffer p;
TF_NewBufferFromString p sz; TF_NewGraph p;
TF_NewSessionOptions p; TF_NewStatus p; TF_NewTensor p ipipzpp; TF_NumDims i p;
TF_SessionRun v ppppippipipp; TF_StringCopy v psz; TF_StringDealloc v p;
TF_StringGetDataPointer p p; TF_StringGetSize z p; TF_StringInit v p;
TF_TensorByteSize z p; TF_TensorData p p; TF_TensorType i p
"""
_STRING = 24  # sizeof(TF_TString)
_ALIGNMENT = 64  # bytes; TensorFlow's own allocator aligns tensors to as many


class Output(ctypes.Structure):
    """TF_Output, which identifies a tensor of a graph."""

    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


@functools.cache
def library() -> Any:
    """Loads the library of the installed tensorflow package, without importing it.

    Raises:
        SavedModelError: the library is missing or cannot be loaded.
    """
    spec = importlib.util.find_spec("tensorflow")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    names = ("libtensorflow_cc.so.2", "libtensorflow_cc.2.dylib")
    paths = [Path(folder, name) for folder in folders for name in names]
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        where = ", ".join(folders) or "no installed package tensorflow"
        raise SavedModelError(f"no {' or '.join(names)} of TensorFlow in {where}")
    try:
        lib = ctypes.CDLL(str(path))  # finds libtensorflow_framework beside it
        for prototype in _PROTOTYPES.split(";"):
            name, *letters = prototype.split()
            result, *arguments = (_TYPES[letter] for letter in "".join(letters))
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise SavedModelError(f"{path} cannot be used: {error}") from error
    return lib


@contextlib.contextmanager
def checked_status(lib: Any) -> Iterator[int]:
    """Yields a TF_Status for one call, and raises the error that the call reports.

    Raises:
        SavedModelError: with TensorFlow's message.
    """
    status = lib.TF_NewStatus()
    try:
        yield status
        if lib.TF_GetCode(status):
            raise SavedModelError(lib.TF_Message(status).decode(errors="replace"))
    finally:
        lib.TF_DeleteStatus(status)


def run_options(lib: Any, seconds: float | None) -> int | None:
    """Returns a buffer with RunOptions that set a timeout, or None for no timeout."""
    if seconds is None:
        return None
    # field 2, timeout_in_ms, as a varint; 0 would mean no timeout
    left, message = max(1, round(1000 * seconds)), b"\x10"
    while left > 0x7F:
        message, left = message + bytes([left & 0x7F | 0x80]), left >> 7
    message += bytes([left])
    return lib.TF_NewBufferFromString(message, len(message))


def free(lib: Any, session: int | None, graph: int) -> None:
    """Frees a graph, and its session unless it is None."""
    if session:
        with checked_status(lib) as status:
            lib.TF_CloseSession(session, status)
            lib.TF_DeleteSession(session, status)
    lib.TF_DeleteGraph(graph)


# {address: memory} of string tensors that TensorFlow still uses. They can outlive a
# request, because a variable keeps the buffer of a tensor that is assigned to it.
live_strings: dict[int, ctypes.Array] = {}


@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
def _free_strings(address: int, size: int, _: Any) -> None:
    for item in range(address, address + size, _STRING):
        library().TF_StringDealloc(item)
    del live_strings[address]


def to_tensor(lib: Any, array: np.ndarray, dtype: str) -> int:
    """Returns a new TF_Tensor with the content of an array from `as_input`."""
    code = _CODES[dtype]
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    if not array.dtype.hasobject:
        tensor = lib.TF_AllocateTensor(code, shape, array.ndim, array.nbytes)
        ctypes.memmove(lib.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
        return tensor
    size = _STRING * array.size
    memory = ctypes.create_string_buffer(size + _ALIGNMENT)
    address = ctypes.addressof(memory)
    address += -address % _ALIGNMENT
    for item, value in zip(range(address, address + size, _STRING), array.flat):
        lib.TF_StringInit(item)
        lib.TF_StringCopy(item, value, len(value))
    live_strings[address] = memory
    return lib.TF_NewTensor(code, shape, array.ndim, address, size, _free_strings, None)


def to_array(lib: Any, tensor: int, key: str) -> np.ndarray:
    """Returns a copy of the output `key`; a string tensor becomes an array of bytes."""
    code = lib.TF_TensorType(tensor)
    dtype = _numpy_dtype(DTYPES.get(code, f"DataType {code}"), f"output {key}")
    shape = [lib.TF_Dim(tensor, dim) for dim in range(lib.TF_NumDims(tensor))]
    array, data = np.empty(shape, dtype), lib.TF_TensorData(tensor)
    if not dtype.hasobject:
        ctypes.memmove(array.ctypes.data, data, lib.TF_TensorByteSize(tensor))
        return array
    for index in range(array.size):
        item = data + _STRING * index
        size = lib.TF_StringGetSize(item)
        array.flat[index] = ctypes.string_at(lib.TF_StringGetDataPointer(item), size)
    return array


def as_input(key: str, value: Any, name: str) -> np.ndarray:
    """Returns the value of the input `key` as a C-ordered array.

    Raises:
        SavedModelError: the value does not have the dtype `name`.
    """
    dtype = _numpy_dtype(name, f"input {key}")
    if dtype.hasobject and not isinstance(value, np.ndarray):
        value = np.asarray(value, object)
    value = np.asarray(value, order="C")
    if name == "bfloat16" and value.dtype == "V2":
        value = value.view(dtype)
    if value.dtype != dtype:
        wanted = "object, of bytes" if dtype.hasobject else name
        raise SavedModelError(f"input {key} has dtype {value.dtype}: must be {wanted}")
    if dtype.hasobject and not all(isinstance(item, bytes) for item in value.flat):
        raise SavedModelError(f"input {key} has dtype object: must hold bytes only")
    return value


def listed(names: Iterable[str]) -> str:
    """Returns sorted names, joined for an error message."""
    return ", ".join(sorted(names)) or "nothing"


def _numpy_dtype(name: str, what: str) -> np.dtype:
    if name not in _CODES:
        raise SavedModelError(f"{what} is {name}: must be one of {listed(_CODES)}")
    if name != "bfloat16":
        return np.dtype(object if name == "string" else name)
    try:
        return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError:
        raise SavedModelError(f"{what} is bfloat16: install ml_dtypes") from None
