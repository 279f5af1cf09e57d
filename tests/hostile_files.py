"""Hostile weights files: {family: {case: (function that writes it, refusal)}}.

Attacks that run code touch a file `canary` in the folder that they are read in.
"""

import io
import os
import pickle
import struct
import tarfile
import warnings
import zipfile

import h5py
import numpy as np
from weight_files import (
    ORDERED,
    call,
    integer,
    mapping,
    mxnet,
    mxnet_array,
    name,
    npy,
    pickled,
    safetensors,
    sequence,
    stack_name,
    storage,
    tensor,
    text,
)

ONES = np.ones(4, np.float32)
HUGE = 2**60


class Attack:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


TOUCH, OPEN = "touch canary", "open('canary', 'w')"
GETATTR, IMPORT = name("builtins", "getattr"), name("builtins", "__import__")
ATTACKS = {
    "os.system": call(name("os", "system"), text(TOUCH)),
    "eval": call(name("builtins", "eval"), text(OPEN)),
    "exec in STACK_GLOBAL": call(stack_name("builtins", "exec"), text(OPEN)),
    "a dotted name": call(
        stack_name("numpy._core.numeric", "builtins.eval"), text(OPEN)
    ),
    "a call of what a call returned": call(
        call(GETATTR, call(IMPORT, text("os")), text("system")), text(TOUCH)
    ),
    "an attack behind a tensor's name": mapping(
        {"x": call(name("builtins", "eval"), text(OPEN))}
    ),
    "INST": b"(" + text(TOUCH) + b"ios\nsystem\n",
    "OBJ": b"(" + name("os", "system") + text(TOUCH) + b"o",
    "a call as a state": name("fileinput", "FileInput")
    + b")R"
    + call(name("os", "system"), text(TOUCH))
    + b"b",
}
DOUBLED = b")" + b"q\x00h\x00\x86" * 60  # a tuple of 2**60 leaves


def ndarray(
    shape=(4,), code="f4", data=b"\0" * 16, order="<", kind=("numpy", "ndarray")
):
    """The instructions of a numpy array, as a lie where asked for one."""
    empty = call(
        name("numpy._core.multiarray", "_reconstruct"),
        name(*kind),
        sequence(integer(0)),
        b"C\x01b",
    )
    none = b"NNN" + integer(-1) + integer(-1) + integer(0)
    dtype = call(name("numpy", "dtype"), text(code), b"\x89", b"\x88")
    dtype += sequence(integer(3), text(order), none) + b"b"
    content = b"B" + struct.pack("<I", len(data)) + data
    state = sequence(
        integer(1), sequence(*map(integer, shape)), dtype, b"\x89", content
    )
    return empty + state + b"b"


def many_views():
    """10,000 arrays of the same 64 KB."""
    dtype = call(name("numpy", "dtype"), text("u1"), b"\x89", b"\x88") + b"q\x01"
    data = b"B" + struct.pack("<I", 2**16) + bytes(2**16) + b"q\x02"
    frombuffer = name("numpy._core.numeric", "_frombuffer")
    first = call(frombuffer, data, dtype, sequence(integer(2**16)), text("C"))
    views = {f"x{index}": b"h\x03" for index in range(10_000)}
    return mapping({"first": first + b"q\x03"} | views)


def encoded_often():
    """500 times the bytes of one string of 1 MB, kept on the stack."""
    latin = text("latin1") + b"q\x02"
    string = text("x" * 2**20) + b"q\x01"
    encode = name("_codecs", "encode")
    first, more = call(encode, string, latin), call(encode, b"h\x01", b"h\x02")
    return b"(" + first + more * 499 + b"t"


def strings_as_states():
    """500 arrays of the bytes of one string of 1 MB."""
    empty, _, _ = ndarray().rpartition(b"(J\x01")
    dtype = call(name("numpy", "dtype"), text("u1"), b"\x89", b"\x88")
    start = text("x" * 2**20) + b"q\x01" + dtype + b"q\x02"
    shape = sequence(integer(2**20))
    state = sequence(integer(1), shape, b"h\x02", b"\x89", b"h\x01")
    return b"(" + start + (empty + state + b"b") * 500 + b"t"


PICKLES = {
    **{
        f"{attack}, protocol {protocol}": (
            pickle.dumps({"x": Attack(function, argument)}, protocol),
            "asks for|the pickle uses|begins with",
        )
        for protocol in range(6)
        for attack, function, argument in [
            ("os.system", os.system, TOUCH),
            ("eval", eval, OPEN),
        ]
    },
    **{
        attack: (pickled(body, 4), "asks for|the pickle uses (INST|OBJ)")
        for attack, body in ATTACKS.items()
    },
    "a dotted torch name": (
        pickled(stack_name("torch._utils", "_rebuild_tensor_v2.__globals__"), 4),
        "asks for",
    ),
    "a registered extension": (pickled(b"\x82\x01"), "EXT1"),
    "a persistent id in text": (pickled(b"P0\n"), "PERSID"),
    "NEWOBJ_EX": (pickled(b"))}\x92", 4), "NEWOBJ_EX"),
    "NEWOBJ": (pickled(name("io", "FileIO") + b")\x81"), "asks for 'FileIO'"),
    "a set": (pickled(b"\x8f", 4), "EMPTY_SET"),
    "an out-of-band buffer": (pickled(b"\x97", 5), "NEXT_BUFFER"),
    "the state of a class": (
        pickled(name("collections", "OrderedDict") + b"}b"),
        "sets the state of a Call",
    ),
    "the state of a string": (pickled(text("x") + b"}b"), "sets the state of a str"),
    "a call of a string": (pickled(text("x") + b")R"), "calls a str"),
    "arguments that are no tuple": (
        pickled(name("collections", "OrderedDict") + b"]R"),
        "calls a Call",
    ),
    "arguments that it has not": (
        pickled(call(name("collections", "OrderedDict"), DOUBLED)),
        "damaged .TypeError",
    ),
    "a key whose hash takes years": (pickled(b"}" + DOUBLED + b"K\x01s"), "a key that"),
    "keys made to collide": (
        pickled(b"}\x8a\x08" + (2**61 - 1).to_bytes(8, "little") + b"Ns"),
        "a key that",
    ),
    "a key twice": (pickled(b"}(" + (text("x") + b"N") * 2 + b"u"), "'x' twice"),
    "a key that stands for itself": (
        pickled(b"}q\x00" + text("model") + b"h\x00s"),
        "",
    ),
    "a memo of 2**32 places": (pickled(b"}r\xff\xff\xff\xff"), ""),
    "a memo that was not stored": (pickled(b"h\x07"), "recalls 7"),
    "nested marks": (pickled(b"(" * 1000 + b"t" * 1000), "nests deeper"),
    "a million instructions": (pickled(b"N" * 1_100_000), "over 1000000 instr"),
    "nested lists": (pickled(b"]" + b"]" * 400_000 + b"a" * 400_000), "holds a list"),
    "an empty stack": (pickled(b"R"), "empty stack"),
    "a mark that was not set": (pickled(b"u"), "did not open"),
    "no end": (pickled(b"}")[:-1], "declared"),
    "two ends": (pickled(b"}") + b"}.", "does not end"),
    "no line's end": (pickled(b"c" + b"a" * 100_000), "no end of line"),
    "no pickle": (b"\x80\x04" + b"\xff" * 100, "damaged|declared"),
    **{
        f"{opcode} of 2**{bits}": (pickled(start + b"x"), "are declared")
        for opcode, bits, start in [
            ("BINBYTES8", 60, b"\x8e" + struct.pack("<Q", 2**60)),
            ("BINUNICODE8", 60, b"\x8d" + struct.pack("<Q", 2**60)),
            ("BYTEARRAY8", 60, b"\x96" + struct.pack("<Q", 2**60)),
            ("BINBYTES", 31, b"B" + struct.pack("<I", 2**31)),
            ("LONG4", 30, b"\x8b" + struct.pack("<I", 2**30)),
        ]
    },
    "FRAME of 2**60": (pickled(b"\x95" + struct.pack("<Q", 2**60) + b"}"), ""),
    "no state dict": (pickled(text("x")), "holds a str"),
    "a state dict of numbers": (
        pickled(mapping({"x": b"K\x01"})),
        "'x' is of type int",
    ),
}

ARRAYS = {
    case: (pickled(mapping({"x": body})), said)
    for case, body, said in [
        ("a shape larger than its bytes", ndarray(shape=(5,)), "has 16 bytes"),
        ("a shape of 2**120", ndarray(shape=(HUGE, HUGE)), "valid sizes"),
        ("a negative shape", ndarray(shape=(-2, -2)), "valid sizes"),
        ("objects", ndarray(code="O8", order="|"), "of dtype '.O8'"),
        ("records", ndarray(code="f4,f4"), "of dtype"),
        ("a dtype of no name", ndarray(code="x" * 1000), "of dtype"),
        ("a byte order of no name", ndarray(order="!"), "not a plain one"),
        ("a class of its own", ndarray(kind=("numpy", "dtype")), "other than numpy"),
        ("never filled", ndarray().rpartition(b"(J\x01")[0], "of type _NDArray"),
    ]
} | {
    "many views of few bytes": (pickled(many_views()), "expands to"),
    "a string encoded often": (pickled(encoded_often()), "than its size justifies"),
    "a string as many states": (pickled(strings_as_states()), "its size justifies"),
}


def bytes_file(content):
    return lambda path: path.write_bytes(content)


def zip_file(members, method=zipfile.ZIP_STORED, patch=lambda content: content):
    """A zip of (name or ZipInfo, content) pairs, its bytes then changed by `patch`."""

    def write(path):
        image = io.BytesIO()
        with (
            zipfile.ZipFile(image, "w", method) as file,
            warnings.catch_warnings(action="ignore"),  # of names that stand twice
        ):
            for member, content in members:
                file.writestr(member, content)
        path.write_bytes(patch(image.getvalue()))

    return write


def torch_file(body, storages=(("0", ONES),), extra=(), folder="archive", **options):
    """What torch.save would write of a pickle's instructions."""
    members = [(f"{folder}/data/{key}", bytes(values)) for key, values in storages]
    start = [(f"{folder}/data.pkl", pickled(body)), (f"{folder}/version", "3")]
    return zip_file([*start, *members, *extra], **options)


def one_tensor(*arguments, **options):
    return mapping({"x": tensor(storage("0", 4), *arguments, **options)})


def entry(field, value):
    """A patch of a field in the first entry of a zip's directory."""
    offset, layout = {"method": (10, "<H"), "flags": (8, "<H"), "stored": (20, "<I")}[
        field
    ]

    def patch(content):
        at = content.index(b"PK\x01\x02") + offset
        return (
            content[:at]
            + struct.pack(layout, value)
            + content[at + struct.calcsize(layout) :]
        )

    return patch


GOOD = one_tensor((2, 2), (2, 1))
BOMB = bytes(2**27)

TORCH = {
    "a name with ..": (
        torch_file(GOOD, extra=[("archive/../../canary", "x")]),
        "leads out of it",
    ),
    "an absolute name": (torch_file(GOOD, extra=[("/tmp/canary", "x")]), "leads out"),
    "a name with \\": (torch_file(GOOD, extra=[("..\\canary", "x")]), "leads out"),
    "a storage twice": (torch_file(GOOD, [("0", ONES)] * 2), "twice"),
    "two pickles": (
        torch_file(GOOD, extra=[("other/data.pkl", pickled(GOOD))]),
        "TorchScript",
    ),
    "a bomb": (
        torch_file(GOOD, [("0", BOMB)], method=zipfile.ZIP_DEFLATED),
        "declares \\d+ unpacked",
    ),
    "a directory of 5 MB": (
        zip_file([("x" * 60 + str(index), b"") for index in range(50_000)]),
        "the zip's directory",
    ),
    "members larger than the file": (
        torch_file(GOOD, patch=entry("stored", 2**31)),
        "overlap",
    ),
    "an encrypted member": (torch_file(GOOD, patch=entry("flags", 1)), "encrypted"),
    "an unknown compression": (
        torch_file(GOOD, patch=entry("method", 99)),
        "other than defl",
    ),
    "a bz2 member": (torch_file(GOOD, method=zipfile.ZIP_BZIP2), "other than defl"),
    "a wrong checksum": (
        torch_file(GOOD, patch=lambda content: content.replace(bytes(ONES), bytes(16))),
        "CRC",
    ),
    "no storage": (torch_file(GOOD, []), "no member 'archive/data/0'"),
    "a storage of another size": (torch_file(GOOD, [("0", ONES[:3])]), "has 12 bytes"),
    "a storage of negative size": (
        torch_file(mapping({"x": tensor(storage("0", -4), (1,), (1,))})),
        "has 16 bytes",
    ),
    "a storage of 2**62": (
        torch_file(mapping({"x": tensor(storage("0", 2**62), (1,), (1,))})),
        "has 16 bytes",
    ),
    "a storage of two kinds": (
        torch_file(
            mapping(
                {
                    "x": tensor(storage("0", 4), (4,), (1,)),
                    "y": tensor(storage("0", 4, "IntStorage"), (4,), (1,)),
                }
            )
        ),
        "declared in two ways",
    ),
    "a storage elsewhere": (
        torch_file(mapping({"x": tensor(storage("../../etc/passwd", 4), (4,), (1,))})),
        "no member",
    ),
    "a storage of no kind": (
        torch_file(mapping({"x": tensor(storage("0", 4, "load"), (4,), (1,))})),
        "asks for 'load'",
    ),
    "a storage that is a string": (
        torch_file(mapping({"x": tensor(text("0"), (4,), (1,))})),
        "has no storage",
    ),
    "a storage for a tensor": (torch_file(mapping({"x": storage("0", 4)})), "_Storage"),
    "an identity of other form": (
        torch_file(mapping({"x": tensor(text("0") + b"Q", (4,), (1,))})),
        "not named as torch",
    ),
    "a shape larger than its storage": (
        torch_file(one_tensor((5,), (1,))),
        "outside its",
    ),
    "a shape of 2**120": (
        torch_file(one_tensor((HUGE, HUGE), (HUGE, 1))),
        "valid sizes",
    ),
    "a negative shape": (torch_file(one_tensor((-2, -2), (1, 1))), "valid sizes"),
    "a negative stride": (torch_file(one_tensor((4,), (-1,), 3)), "valid sizes"),
    "a huge stride": (torch_file(one_tensor((2,), (HUGE,))), "valid sizes"),
    "strides past the end": (torch_file(one_tensor((2, 2), (3, 1))), "outside its"),
    "one value many times": (torch_file(one_tensor((2**40,), (0,))), "outside its"),
    "a negative offset": (torch_file(one_tensor((2,), (1,), -1)), "outside its"),
    "a huge offset": (torch_file(one_tensor((2,), (1,), 2**62)), "outside its"),
    "an empty shape of 2**120": (
        torch_file(one_tensor((0, HUGE, HUGE), (1, 1, 1))),
        "valid sizes",
    ),
    "more axes than strides": (torch_file(one_tensor((2, 2), (1,))), "1 strides"),
    "a shape of 1000 axes": (torch_file(one_tensor((1,) * 1000, (1,) * 1000)), "valid"),
    "a tensor yet to be negated": (
        torch_file(one_tensor((4,), (1,), flags=mapping({"neg": b"\x88"}))),
        "lazy negation",
    ),
    "a parameter of no tensor": (
        torch_file(
            call(name("torch._utils", "_rebuild_parameter"), b"N", b"\x88", ORDERED)
        ),
        "has no tensor",
    ),
    "a whole model": (
        torch_file(name("torch.nn.modules.container", "Sequential") + b")\x81"),
        "a whole model or an attack",
    ),
    "big-endian numbers": (
        torch_file(GOOD, extra=[("archive/byteorder", "big")]),
        "big-endian",
    ),
    "a zip cut short": (
        torch_file(GOOD, patch=lambda content: content[:-40]),
        "damaged .BadZipFile",
    ),
}


def hdf5_file(build):
    def write(path):
        with h5py.File(path, "w") as file:
            file["good"] = ONES
            build(file)

    return write


def external(file):
    file.create_dataset("x", (4,), "f4", external=[("secret", 0, 16)])


def virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    file.create_virtual_dataset("x", layout)


def link(path, target):
    def build(file):
        file[path] = target(file) if callable(target) else target

    return build


def nest(file):
    group = file
    for _ in range(100):
        group = group.create_group("a")


HDF5 = {
    "a soft link": (hdf5_file(link("x", h5py.SoftLink("/good"))), "link to elsewhere"),
    "a link to another file": (
        hdf5_file(link("x", h5py.ExternalLink("other.h5", "/x"))),
        "link to elsewhere",
    ),
    "data in another file": (hdf5_file(external), "another file"),
    "virtual data": (hdf5_file(virtual), "is virtual"),
    "a shape of 2**60, in chunks": (
        hdf5_file(
            lambda file: file.create_dataset("x", (HUGE,), "f4", chunks=(2**20,))
        ),
        "in chunks",
    ),
    "a shape of 2**40, never written": (
        hdf5_file(lambda file: file.create_dataset("x", (2**40,), "f4")),
        "declares 4398046511104 bytes and stores 0",
    ),
    "compressed zeros": (
        hdf5_file(
            lambda file: file.create_dataset("x", data=np.zeros(2**22), compression=9)
        ),
        "in chunks",
    ),
    "a group within itself": (
        hdf5_file(link("a/loop", lambda file: file["/"])),
        "has another name",
    ),
    "groups within each other": (
        hdf5_file(
            lambda file: (
                file.create_group("a/b"),
                link("a/b/c", lambda file: file["a"])(file),
            )
        ),
        "has another name",
    ),
    "one array under two names": (
        hdf5_file(link("x", lambda file: file["good"])),
        "has another name",
    ),
    "groups 100 deep": (hdf5_file(nest), "nested too deep"),
    "strings": (hdf5_file(link("x", "text")), "not an array|of dtype"),
    "references": (
        hdf5_file(
            lambda file: file.create_dataset("x", data=file.ref, dtype=h5py.ref_dtype)
        ),
        "of dtype",
    ),
    "records": (hdf5_file(link("x", np.zeros(2, "f4,f4"))), "of dtype"),
    "complex numbers": (hdf5_file(link("x", np.zeros(2, "c8"))), "of dtype"),
    "a named type": (hdf5_file(link("x", np.dtype("f4"))), "not an array"),
    "no data": (hdf5_file(link("x", h5py.Empty("f4"))), "not an array"),
    "a file cut short": (
        lambda path: (
            hdf5_file(link("x", np.zeros(1000)))(path),
            path.write_bytes(path.read_bytes()[:-500]),
        ),
        "truncated",
    ),
    "a magic number and no more": (bytes_file(b"\x89HDF\r\n\x1a\n"), "damaged"),
}


def tensors_file(header, data=bytes(16), **options):
    return bytes_file(safetensors(header, data))


def described(begin=0, end=16, shape="[4]", dtype="F32", name="x"):
    offsets = f'"data_offsets": [{begin}, {end}]'
    return f'"{name}": {{"dtype": "{dtype}", "shape": {shape}, {offsets}}}'


SAFETENSORS = {
    "a header of 2**63": (
        bytes_file(struct.pack("<Q", 2**63) + b"{}"),
        "header of 9223372036854775808 bytes",
    ),
    "a header longer than the file": (
        bytes_file(struct.pack("<Q", 1000) + b"{}"),
        "1000 bytes are declared",
    ),
    "a name twice": (
        tensors_file("{" + described() + "," + described() + "}"),
        "'x' twice",
    ),
    "overlaps": (
        tensors_file("{" + described() + "," + described(name="y") + "}"),
        "SafetensorError",
    ),
    "gaps": (tensors_file("{" + described(4, 20) + "}", bytes(20)), "SafetensorError"),
    "bytes after the last": (
        tensors_file("{" + described() + "}", bytes(20)),
        "SafetensorError",
    ),
    "fewer bytes than declared": (
        tensors_file("{" + described() + "}", bytes(12)),
        "SafetensorError",
    ),
    "a shape of another size": (
        tensors_file("{" + described(shape="[5]") + "}"),
        "SafetensorError",
    ),
    "a shape of 2**122": (
        tensors_file("{" + described(shape=f"[{2**61}, {2**61}]") + "}"),
        "SafetensorError",
    ),
    "an empty shape of 2**61": (
        tensors_file("{" + described(0, 0, shape=f"[0, {2**61}]") + "}", b""),
        "damaged|valid",
    ),
    "a negative offset": (tensors_file("{" + described(-4, 12) + "}"), "SafetensorErr"),
    "a negative shape": (
        tensors_file("{" + described(shape="[-4]") + "}"),
        "SafetensorError",
    ),
    "8-bit floats": (
        tensors_file("{" + described(0, 4, dtype="F8_E4M3") + "}", bytes(4)),
        "dtype F8_E4M3",
    ),
    "complex numbers": (
        tensors_file("{" + described(0, 32, dtype="C64") + "}", bytes(32)),
        "dtype C64",
    ),
    "an unknown dtype": (tensors_file("{" + described(dtype="X") + "}"), "Safetensor"),
    "brackets 100,000 deep": (tensors_file('{"x":' + "[" * 100_000), "RecursionError"),
    "no JSON": (tensors_file("{x}"), "JSONDecodeError"),
    "no object": (tensors_file("[]"), "begins with|Safetensor"),
    "no tensors": (tensors_file("{}", b""), "holds no tensors"),
}


def npz(*members, **options):
    return zip_file([(f"{name}.npy", content) for name, content in members], **options)


def header(descr="'<f4'", shape="(4,)", more=""):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, {more}}}\n"


def lying(version=1, **options):
    return npz(("x", npy(header=header(**options), version=version) + bytes(16)))


NPZ = {
    "a bomb": (npz(("x", BOMB), method=zipfile.ZIP_DEFLATED), "unpacked"),
    "objects": (npz(("x", npy(np.array([Attack(os.system, TOUCH)])))), "dtype '.O'"),
    "a shape larger than its bytes": (lying(shape="(5,)"), "is declared, but 16"),
    "a shape of 2**120": (lying(shape=f"({HUGE}, {HUGE})"), "valid sizes"),
    "an empty shape of 2**120": (lying(shape=f"(0, {HUGE}, {HUGE})"), "valid sizes"),
    "a negative shape": (lying(shape="(-4,)"), "not as numpy writes it"),
    "a shape that is a call": (lying(shape="exit()"), "not as numpy writes it"),
    "a header with more": (lying(more="'x': 1"), "not as numpy writes it"),
    "a header 50,000 deep": (lying(shape="(" * 50_000), "not as numpy writes it"),
    "a header of version 3": (lying(version=3), "not a .npy file"),
    "a header of 2**32 bytes": (
        npz(("x", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}")),
        "not as numpy writes it",
    ),
    "records": (lying(descr="[('a', '<f4')]"), "not as numpy writes it"),
    "strings": (lying(descr="'<U1'"), "dtype '<U1'"),
    "no array": (npz(("x", b"")), "not a .npy file"),
    "an array twice": (npz(("x", npy(ONES)), ("x", npy(ONES))), "twice"),
    "a name with ..": (npz(("../x", npy(ONES))), "leads out"),
    "a wrong checksum": (
        npz(("x", npy(ONES)), patch=lambda c: c.replace(bytes(ONES), bytes(16))),
        "CRC",
    ),
    "no members": (zip_file([]), "begins with|neither torch"),
    "other members": (zip_file([("x.txt", "x")]), "neither torch, numpy nor Keras"),
    "an .npy of objects": (
        bytes_file(npy(np.array([Attack(os.system, TOUCH)]))),
        "begins with",
    ),
}

ARRAY = mxnet_array(ONES)


def list_of(*arrays, names=(b"x",), **options):
    return bytes_file(mxnet(list(names), list(arrays), **options))


def array_header(magic, *rest, data=bytes(16)):
    return struct.pack("<I", magic) + struct.pack(*rest) + data


V1, V2 = 0xF993FAC8, 0xF993FAC9
MXNET = {
    "2**60 arrays": (list_of(ARRAY, count=HUGE), f"{HUGE} arrays are declared"),
    "100,000 arrays": (list_of(ARRAY, count=100_000), "declared at"),
    "another magic number": (list_of(ARRAY, magic=0x113), "begins with"),
    "a reserved word": (
        bytes_file(struct.pack("<QQQ", 0x112, 1, 1) + ARRAY),
        "does not begin as",
    ),
    "2**31 axes": (list_of(array_header(V1, "<I", 2**31)), "of 2147483648 axes"),
    "2**31 axes of old": (list_of(array_header(2**31, "<I", 1)), "2147483648 axes"),
    "a shape of 2**60": (
        list_of(array_header(V1, "<Iqiii", 1, HUGE, 1, 0, 0)),
        "valid sizes",
    ),
    "a shape of 2**40": (
        list_of(array_header(V1, "<Iqiii", 1, 2**40, 1, 0, 0)),
        "4398046511104 bytes are declared",
    ),
    "a shape of 2**120": (
        list_of(array_header(V1, "<Iqqiii", 2, HUGE, HUGE, 1, 0, 0)),
        "valid sizes",
    ),
    "a shape that wraps around to 0": (
        list_of(array_header(V1, "<Iqqiii", 2, 2**32, 2**32, 1, 0, 0)),
        "valid sizes",
    ),
    "a negative shape": (
        list_of(array_header(V1, "<Iqqiii", 2, -2, -2, 1, 0, 0)),
        "valid sizes",
    ),
    "no shape": (list_of(array_header(V2, "<iI", 0, 0, data=b"")), "of 0 axes"),
    "a sparse array": (
        list_of(array_header(V2, "<iIqiii", 1, 1, 4, 1, 0, 0)),
        "storage type 1",
    ),
    "an unknown dtype": (
        list_of(array_header(V1, "<Iqiii", 1, 4, 1, 0, 99)),
        "unknown dtype 99",
    ),
    "a name of 2**60": (
        bytes_file(
            struct.pack("<QQQ", 0x112, 0, 1) + ARRAY + struct.pack("<QQ", 1, HUGE)
        ),
        f"name of {HUGE} bytes",
    ),
    "fewer names than arrays": (list_of(ARRAY, names=()), "1 arrays and 0 names"),
    "a name twice": (list_of(ARRAY, ARRAY, names=(b"x", b"x")), "'x' twice"),
    "a name twice but for its prefix": (
        list_of(ARRAY, ARRAY, names=(b"arg:x", b"aux:x")),
        "'x' twice",
    ),
    "a name that is no text": (list_of(ARRAY, names=(b"\xff",)), "UnicodeDecodeError"),
    "bytes after the last": (
        bytes_file(mxnet([b"x"], [ARRAY]) + b"more"),
        "4 bytes follow",
    ),
    "nothing but its magic number": (bytes_file(struct.pack("<Q", 0x112)), "declared"),
}


def tar_file(method, **attributes):
    def write(path):
        with tarfile.open(path, method) as file:
            info = tarfile.TarInfo(attributes.pop("name", "data.pkl"))
            for key, value in attributes.items():
                setattr(info, key, value)
            file.addfile(info)

    return write


def symlink(target):
    info = zipfile.ZipInfo("archive/data/0")
    info.external_attr = 0o120777 << 16
    return torch_file(GOOD, [], [(info, target)])


ARCHIVES = {
    "a tar that climbs": (tar_file("w", name="../canary"), "begins with"),
    "an absolute tar": (tar_file("w", name="/tmp/canary"), "begins with"),
    "a tar with a symlink": (
        tar_file("w", type=tarfile.SYMTYPE, linkname="canary"),
        "begins with",
    ),
    "a tar with a hard link": (
        tar_file("w", type=tarfile.LNKTYPE, linkname="canary"),
        "begins with",
    ),
    "a tar with a device": (tar_file("w", type=tarfile.CHRTYPE), "begins with"),
    "a gzipped tar": (tar_file("w:gz", name="../canary"), "begins with"),
    "a zip with a symlink": (symlink("/etc/passwd"), "has 11 bytes"),
    "a .keras without weights": (zip_file([("config.json", "{}")]), "neither torch"),
    "a .keras with weights twice": (
        zip_file([("model.weights.h5", "x")] * 2),
        "twice",
    ),
    "a .keras with other weights": (
        zip_file([("x/model.weights.h5", "x")]),
        "neither torch",
    ),
    "a .keras with a bomb": (
        zip_file([("model.weights.h5", BOMB)], zipfile.ZIP_DEFLATED),
        "unpacked",
    ),
    "a .keras with no HDF5": (zip_file([("model.weights.h5", "x")]), "damaged"),
}


def written(cases):
    return {
        case: (bytes_file(content), said) for case, (content, said) in cases.items()
    }


def in_torch(cases):
    """The pickles as data.pkl of a torch zip, in which names are others' too."""
    return {
        case: (zip_file([("archive/data.pkl", content)]), said)
        for case, (content, said) in cases.items()
    }


FAMILIES = {
    "pickle.pdparams": written(PICKLES),
    "pickle.pth": in_torch(PICKLES),
    "arrays.pdparams": written(ARRAYS),
    "torch.pth": TORCH,
    "hdf5.h5": HDF5,
    "safetensors.safetensors": SAFETENSORS,
    "numpy.npz": NPZ,
    "mxnet.params": MXNET,
    "archive.keras": ARCHIVES,
}
