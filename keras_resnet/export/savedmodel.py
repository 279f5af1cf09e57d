"""Runs a SavedModel through TensorFlow's C++ loader, the one that TF Serving uses.

It needs NumPy and the libraries of the tensorflow wheel, but imports neither tensorflow
nor this package: what runs here runs in a server, which has only the folder.

    python savedmodel.py FOLDER SIGNATURE INPUTS.npz OUTPUTS.npz

reads the inputs from one file and writes the outputs to the other (`read_npz` says how
strings are stored). If it cannot, it exits with 1 and says why in the last line on
stderr; any before that are TensorFlow's log, some of which no setting silences.
"""

import contextlib
import ctypes
import functools
import importlib.util
import itertools
import os
import sys
import weakref
import zipfile
import zlib
from pathlib import Path

import numpy as np

# TensorFlow's DataType: our name, which is NumPy's too but for the string
_DTYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 7: "string"}
_DTYPES |= {9: "int64", 10: "bool", 14: "bfloat16", 19: "float16"}
_CODES = {name: code for code, name in _DTYPES.items()}
_DAMAGE = (zipfile.BadZipFile, zlib.error)


class SavedModelError(RuntimeError):
    """A model that does not load, or a request that it or this module refuses.

    No `keras_resnet.Error`: this file is a program too, which imports nothing of ours.
    """


class SavedModel:
    """A loaded SavedModel: any threads may `run` it until one closes it.

    Args:
        folder: the export, the one that holds saved_model.pb.

    Attributes:
        signatures: {name: {"inputs": {key: (dtype, shape)}, "outputs": the same}}. A
            dtype is NumPy's name or "string"; a shape has None for a size that may
            vary, and is None where even the rank may.
        metadata: {name: (method, inputs, outputs)} of these and of the loader's own;
            the inputs and outputs are {key: (tensor, dtype, shape)}.

    Raises:
        SavedModelError: in TensorFlow's words, or that its library is not there.
    """

    def __init__(self, folder):
        self._lib = lib = _library()
        graph, meta_graph = lib.TF_NewGraph(), lib.TF_NewBuffer()
        options, tags = lib.TF_NewSessionOptions(), (ctypes.c_char_p * 1)(b"serve")
        try:
            with _status(lib) as status:
                session = lib.TF_LoadSessionFromSavedModel(
                    *(options, None, os.fsencode(folder), tags, len(tags)),
                    *(graph, meta_graph, status),
                )
                # ahead of the status: a load that failed has a graph to free
                self._close = weakref.finalize(self, _free, lib, session, graph)
            # the first fields of TF_Buffer
            address, size = (ctypes.c_size_t * 2).from_address(meta_graph)
            data = memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")
            self.metadata, self._tensors = _metadata(data), _signature_defs(data)
        finally:
            lib.TF_DeleteBuffer(meta_graph)
            lib.TF_DeleteSessionOptions(options)
        self._session, self._graph = session, graph
        self.signatures = {
            name: {
                side: {key: info[1:] for key, info in tensors.items()}
                for side, tensors in zip(("inputs", "outputs"), sides)
            }
            for name, sides in self._tensors.items()
        }

    def run(self, signature, seconds=None, /, **inputs):
        """Runs a signature, as one request to a server does.

        A dtype is never converted. A shape is not looked at, as a server does not: the
        graph refuses what does not fit.

        Args:
            signature: one of `signatures`.
            seconds: after which the run is ended: no operation of it begins any more,
                and when those that have begun are through this raises. None: never.
            inputs: an array for each key of its inputs; a string is an array of dtype
                object, or a list, of bytes.

        Returns:
            {key: array} of its outputs; a string is of dtype object, and holds bytes.

        Raises:
            SavedModelError: in TensorFlow's words, or naming the argument at fault.
        """
        if not self._close.alive:
            raise SavedModelError("this SavedModel is closed")
        if signature not in self._tensors:
            allowed = _list(self._tensors)
            raise SavedModelError(f"signature={signature!r}: must be one of {allowed}")
        sources, results = self._tensors[signature]
        missing, extra = sources.keys() - inputs, inputs.keys() - sources
        if missing or extra:
            raise SavedModelError(
                f"{signature} takes {_list(sources)}:"
                f" missing {_list(missing)}, unexpected {_list(extra)}"
            )
        lib, n_in, n_out = self._lib, len(sources), len(results)
        arrays = [_checked(key, inputs[key], info[1]) for key, info in sources.items()]
        feeds = (_Output * n_in)(*(self._output(*info) for info in sources.values()))
        fetches = (_Output * n_out)(*(self._output(*info) for info in results.values()))
        given, made = (ctypes.c_void_p * n_in)(), (ctypes.c_void_p * n_out)()
        options = _run_options(lib, seconds)
        try:
            for index, (array, info) in enumerate(zip(arrays, sources.values())):
                given[index] = _tensor(lib, array, _CODES[info[1]])
            with _status(lib) as status:
                lib.TF_SessionRun(
                    *(self._session, options, feeds, given, n_in),
                    *(fetches, made, n_out),
                    *(None, 0, None, status),
                )
            return {key: _array(lib, tensor, key) for key, tensor in zip(results, made)}
        finally:
            for tensor in filter(None, [*given, *made]):
                lib.TF_DeleteTensor(tensor)
            if options:
                lib.TF_DeleteBuffer(options)

    def end(self):
        """Ends all that runs, as `seconds` would, and refuses any run to come.

        The memory stays taken until `close`.
        """
        if self._close.alive:
            with _status(self._lib) as status:
                self._lib.TF_CloseSession(self._session, status)

    def close(self):
        """Frees the session, graph and variables; again, it does nothing."""
        self._close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _output(self, tensor, *_):
        name, _, index = tensor.rpartition(":")
        operation = self._lib.TF_GraphOperationByName(self._graph, name.encode())
        if not operation:  # or it is sparse or composite, which this does not read
            raise SavedModelError(f"the graph has no tensor {tensor!r}")
        return _Output(operation, int(index))


def pack_bytes(values):
    """{"bytes": uint8 [total], "lengths": int64, of the shape of `values`}, of bytes.

    Files of such arrays need no pickle; NumPy's own "S" loses zeros that end a string.
    """
    values = np.asarray(values, object)
    lengths = np.array([len(value) for value in values.flat], np.int64)
    joined = np.frombuffer(b"".join(values.flat), np.uint8)
    return {"bytes": joined, "lengths": lengths.reshape(values.shape)}


def unpack_bytes(packed):
    """The array of bytes, of dtype object, that `pack_bytes` packed.

    Raises:
        SavedModelError: not its dtypes, or lengths that do not add up to the bytes.
    """
    data, lengths = packed["bytes"], packed["lengths"]
    typed = data.dtype == np.uint8 and lengths.dtype == np.int64
    sizes = lengths.ravel().tolist()  # Python's integers do not overflow
    if not typed or min(sizes, default=0) < 0 or sum(sizes) != data.size:
        raise SavedModelError("packed: must be uint8 bytes and int64 lengths of them")
    values, joined = np.empty(lengths.shape, object), data.tobytes()
    for index, end in enumerate(itertools.accumulate(sizes)):
        values.flat[index] = joined[end - sizes[index] : end]
    return values


def read_npz(path):
    """{name: array} of an .npz file, never unpickling.

    A string is stored as `pack_bytes` packs it, under NAME.bytes and NAME.lengths; a
    bfloat16 as two bytes of no type, "V2", for NumPy's files do not know it.

    Raises:
        SavedModelError: not a file of such arrays.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    array = np.lib.format.read_array(file, allow_pickle=False)
                arrays[member.removesuffix(".npy")] = array
    except (*_DAMAGE, OSError, ValueError, EOFError, RuntimeError) as error:
        raise SavedModelError(f"{os.fspath(path)}: {error}") from error
    for name in [key[:-8] for key in arrays if key.endswith(".lengths")]:
        if f"{name}.bytes" in arrays:
            packed = {key: arrays.pop(f"{name}.{key}") for key in ("bytes", "lengths")}
            arrays[name] = unpack_bytes(packed)
    return arrays


def write_npz(path, arrays):
    """Writes {name: array} for `read_npz`, or for np.load, to exactly this path."""
    # np.savez takes no array called file or allow_pickle: it has parameters so called
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            parts = {name: array}
            if array.dtype.hasobject:
                parts = {f"{name}.{key}": it for key, it in pack_bytes(array).items()}
            for part, value in parts.items():
                with archive.open(f"{part}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, value, allow_pickle=False)


def _list(names):
    return ", ".join(sorted(names)) or "nothing"


def _numpy_dtype(name, what):
    if name not in _CODES:
        raise SavedModelError(f"{what} is {name}: must be one of {_list(_CODES)}")
    if name != "bfloat16":
        return np.dtype(object if name == "string" else name)
    try:
        return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError:
        raise SavedModelError(f"{what} is bfloat16: install ml_dtypes") from None


def _checked(key, value, name):
    """The input as a C-ordered array of its dtype, which it must have already."""
    dtype = _numpy_dtype(name, f"input {key}")
    if dtype.hasobject and not isinstance(value, np.ndarray):
        value = np.asarray(value, object)
    value = np.asarray(value, order="C")
    if name == "bfloat16" and value.dtype == "V2":
        value = value.view(dtype)
    if value.dtype != dtype:
        must = "object, of bytes" if dtype.hasobject else name
        raise SavedModelError(f"input {key} has dtype {value.dtype}: must be {must}")
    if dtype.hasobject and not all(isinstance(item, bytes) for item in value.flat):
        raise SavedModelError(f"input {key} has dtype object: must hold bytes alone")
    return value


# The C library


class _Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


# of the C functions below: each's name, result and arguments
_TYPES = {
    "p": ctypes.c_void_p,
    "i": ctypes.c_int,
    "l": ctypes.c_int64,
    "z": ctypes.c_size_t,
    "s": ctypes.c_char_p,
    "v": None,
}
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


@functools.cache
def _library():
    spec = importlib.util.find_spec("tensorflow")  # found, not executed
    folders = list(spec.submodule_search_locations or ()) if spec else []
    names = ("libtensorflow_cc.so.2", "libtensorflow_cc.2.dylib")
    paths = [Path(folder, name) for folder in folders for name in names]
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        where = ", ".join(folders) or "no installed package tensorflow"
        raise SavedModelError(f"no {' or '.join(names)} of TensorFlow in {where}")
    try:
        lib = ctypes.CDLL(str(path))  # and libtensorflow_framework beside it, by itself
        for prototype in _PROTOTYPES.split(";"):
            name, *letters = prototype.split()
            result, *arguments = (_TYPES[letter] for letter in "".join(letters))
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise SavedModelError(f"{path} is of no use: {error}") from error
    return lib


@contextlib.contextmanager
def _status(lib):
    """A TF_Status for a call; raises what the call says in it."""
    status = lib.TF_NewStatus()
    try:
        yield status
        if lib.TF_GetCode(status):
            raise SavedModelError(lib.TF_Message(status).decode(errors="replace"))
    finally:
        lib.TF_DeleteStatus(status)


def _run_options(lib, seconds):
    """A buffer of RunOptions with timeout_in_ms, its field 2; None for no limit."""
    if seconds is None:
        return None
    left, message = max(1, round(1000 * seconds)), b"\x10"  # 0 would be no limit
    while left > 0x7F:
        message, left = message + bytes([left & 0x7F | 0x80]), left >> 7
    message += bytes([left])
    return lib.TF_NewBufferFromString(message, len(message))


def _free(lib, session, graph):
    if session:
        with _status(lib) as status:
            lib.TF_CloseSession(session, status)
            lib.TF_DeleteSession(session, status)
    lib.TF_DeleteGraph(graph)


_STRING = 24  # sizeof(TF_TString)
_ALIGNMENT = 64  # of a tensor's data: that of TensorFlow's own allocator
# {address: memory} of the strings that TensorFlow was given and has not given back. It
# may keep them beyond the request: a variable takes the very buffer assigned to it.
_strings: dict[int, ctypes.Array] = {}


@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
def _free_strings(address, size, _):
    for item in range(address, address + size, _STRING):
        _library().TF_StringDealloc(item)
    del _strings[address]


def _tensor(lib, array, code):
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
    _strings[address] = memory
    return lib.TF_NewTensor(code, shape, array.ndim, address, size, _free_strings, None)


def _array(lib, tensor, key):
    code = lib.TF_TensorType(tensor)
    dtype = _numpy_dtype(_DTYPES.get(code, f"DataType {code}"), f"output {key}")
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


# As much of protocol buffers as signatures need


def _varint(message, end):
    """(value, end) of the integer that starts at `end`."""
    value = shift = 0
    while True:
        byte, end = message[end], end + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, end


def _fields(message):
    """The (number, value) pairs of a message; a value is an int or a memoryview."""
    end = 0
    while end < len(message):
        key, end = _varint(message, end)
        if key & 7 == 0:
            value, end = _varint(message, end)
        else:
            size, end = {1: (8, end), 5: (4, end)}.get(key & 7) or _varint(message, end)
            value, end = message[end : end + size], end + size
        yield key >> 3, value


def _map(message, field):
    """{key: message} of a map, sorted, since its order there is arbitrary."""
    entries = (dict(_fields(it)) for number, it in _fields(message) if number == field)
    return dict(sorted((str(entry[1], "utf8"), entry[2]) for entry in entries))


def _signature_defs(meta_graph):
    """{signature: (inputs, outputs)}, each {key: (tensor, dtype, shape)}."""
    return {
        name: tuple(sides)
        for name, (_, *sides) in _metadata(meta_graph).items()
        if not name.startswith("__saved_model_")  # the loader's own
    }


def _metadata(meta_graph):
    """{signature: (method, inputs, outputs)}, of the loader's own too."""
    return {
        name: (
            str(dict(_fields(signature)).get(3, b""), "utf8"),
            *(
                {key: _tensor_info(it) for key, it in _map(signature, side).items()}
                for side in (1, 2)
            ),
        )
        for name, signature in _map(meta_graph, 5).items()
    }


def _tensor_info(message):
    info = dict(_fields(message))
    code, shape = info.get(2, 0), list(_fields(info.get(3, b"")))
    # a size of 0 is left out, and -1, any size, is 64 bits of ones
    sizes = [dict(_fields(it)).get(1, 0) for number, it in shape if number == 2]
    sizes = [None if size >> 63 else size for size in sizes]
    unknown_rank = dict(shape).get(3)
    dtype = _DTYPES.get(code, f"DataType {code}")
    tensor = str(info.get(1, b""), "utf8")
    return tensor, dtype, None if unknown_rank else tuple(sizes)


def main(arguments):
    """The script; `arguments` are those of the command line."""
    if len(arguments) != 4:
        raise SavedModelError("must have FOLDER SIGNATURE INPUTS.npz OUTPUTS.npz")
    folder, signature, source, target = arguments
    inputs = read_npz(source)  # ahead of the model, which takes seconds
    with SavedModel(folder) as model:
        write_npz(target, model.run(signature, **inputs))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (SavedModelError, OSError) as error:
        sys.exit(" ".join(f"savedmodel: {error}".split()))
