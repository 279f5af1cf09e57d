"""Weights files as the frameworks, or an attacker, would write them; without either."""

import io
import pickle
import struct
import zipfile

import numpy as np

STORAGES = {
    "<f4": "FloatStorage",
    "<f8": "DoubleStorage",
    "<f2": "HalfStorage",
    "<i8": "LongStorage",
    "<i4": "IntStorage",
    "<i2": "ShortStorage",
    "|i1": "CharStorage",
    "|u1": "ByteStorage",
    "|b1": "BoolStorage",
}
MXNET_CODES = {"<f4": 0, "<f8": 1, "<f2": 2, "|u1": 3, "<i4": 4, "|i1": 5, "<i8": 6}


def bfloat16_bits(values):
    """The 16-bit patterns of float32 values that bfloat16 can hold."""
    return (np.asarray(values, "<f4").view("<u4") >> 16).astype("<u2")


# instructions of a pickle


def text(string):
    return b"X" + struct.pack("<I", len(string.encode())) + string.encode()


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def stack_name(module, attribute):
    return text(module) + text(attribute) + b"\x93"


def integer(value):
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def sequence(*parts):
    """A tuple."""
    return b"(" + b"".join(parts) + b"t"


def call(function, *arguments):
    return function + sequence(*arguments) + b"R"


def mapping(entries, empty=b"}"):
    """A dictionary of names and instructions that make the values."""
    items = b"".join(text(key) + value for key, value in entries.items())
    return empty + b"(" + items + b"u"


def pickled(body, protocol=2):
    return bytes([0x80, protocol]) + body + b"."


# torch.save

ORDERED = name("collections", "OrderedDict") + b")R"


def storage(key, count, kind="FloatStorage"):
    parts = (text("storage"), name("torch", kind), text(key), text("cpu"))
    return sequence(*parts, integer(count)) + b"Q"


def tensor(
    made_storage, shape, strides, offset=0, rebuild="_rebuild_tensor_v2", flags=b"N"
):
    sizes = [sequence(*map(integer, numbers)) for numbers in (shape, strides)]
    arguments = (made_storage, integer(offset), *sizes, b"\x89", ORDERED, flags)
    return call(name("torch._utils", rebuild), *arguments)


def torch_tensor(key, array, kind=None):
    """The instructions of a contiguous tensor in a storage of its own."""
    strides = [step // array.itemsize for step in array.strides]
    made = storage(key, array.size, kind or STORAGES[array.dtype.str])
    return tensor(made, array.shape, strides)


def torch_zip(path, body, storages, folder="archive", extra=()):
    """What torch.save writes: the pickle's instructions, {key: array or bytes}."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{folder}/data.pkl", pickled(body))
        file.writestr(f"{folder}/byteorder", "little")
        for key, values in storages.items():
            file.writestr(f"{folder}/data/{key}", bytes(memoryview(values)))
        file.writestr(f"{folder}/version", "3\n")
        for member, values in extra:
            file.writestr(member, values)


def write_torch(path, tensors, wrap=lambda state: state):
    """A state dict as torch.save writes it, with the versions that modules add."""
    arrays = {n: np.require(a, requirements="C") for n, a in tensors.items()}
    entries = {n: torch_tensor(str(i), a) for i, (n, a) in enumerate(arrays.items())}
    versions = mapping({"": mapping({"version": integer(1)})}, ORDERED)
    state = mapping(entries, ORDERED) + mapping({"_metadata": versions}) + b"b"
    keys = map(str, range(len(arrays)))
    torch_zip(path, wrap(state), dict(zip(keys, arrays.values())))


# the others


def mxnet_array(array, header="V2"):
    """An array with the header of one of mxnet's ages."""
    magic = {"V1": 0xF993FAC8, "V2": 0xF993FAC9, "V3": 0xF993FACA}
    rank, shape = array.ndim, array.shape
    if header == "old":
        start = struct.pack(f"<I{rank}I", rank, *shape)
    elif header == "V1":
        start = struct.pack(f"<II{rank}q", magic[header], rank, *shape)
    else:
        start = struct.pack(f"<IiI{rank}q", magic[header], 0, rank, *shape)
    context = struct.pack("<iii", 1, 0, MXNET_CODES[array.dtype.str])
    return start + context + array.tobytes()


def mxnet(names, arrays, count=None, magic=0x112):
    """The bytes of names and arrays as mxnet_array gives them."""
    count = len(arrays) if count is None else count
    named = b"".join(struct.pack("<Q", len(n)) + n for n in names)
    lengths = struct.pack("<Q", count), struct.pack("<Q", len(names))
    start = struct.pack("<QQ", magic, 0)
    return start + lengths[0] + b"".join(arrays) + lengths[1] + named


def write_mxnet(path, tensors, header="V2", prefix=""):
    names = [(prefix + n).encode() for n in tensors]
    path.write_bytes(mxnet(names, [mxnet_array(a, header) for a in tensors.values()]))


class _PaddleTensor:
    """Pickles as paddle.save's tensors do: as the tuple of their name and values."""

    def __init__(self, name, values):
        self.pair = (name, values)

    def __reduce__(self):
        return tuple, (self.pair,)


def write_paddle(path, tensors, protocol=4, tuples=False):
    entries = dict(tensors)
    if tuples:
        entries = {n: _PaddleTensor(f"param_{n}", a) for n, a in tensors.items()}
    else:
        entries["StructuredToParameterName@@"] = {n: f"param_{n}" for n in tensors}
    path.write_bytes(pickle.dumps(entries, protocol))


def npy(array=None, header=None, version=1):
    """The bytes of a .npy file, or of one with a header of ours and no data."""
    if header is None:
        file = io.BytesIO()
        np.save(file, array)
        return file.getvalue()
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode()


def safetensors(header, data=b""):
    """The bytes of a header as JSON text and of the data."""
    return struct.pack("<Q", len(header)) + header.encode() + data


def write_checkpoint(prefix, tensors):
    import tensorflow as tf

    slices = [""] * len(tensors)
    values = [tf.constant(value) for value in tensors.values()]
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=slices,
        tensors=values,
    )
