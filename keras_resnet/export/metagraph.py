"""Reads a MetaGraphDef's signatures, with as much of protocol buffers as needed."""

from collections.abc import Iterator
from typing import Any

# TensorFlow's DataType: its name, which is NumPy's too except for the string's
DTYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 7: "string"}
DTYPES |= {9: "int64", 10: "bool", 14: "bfloat16", 19: "float16"}

Shape = tuple[int | None, ...] | None  # None for a size that may vary, or the rank
Spec = tuple[str, Shape]  # dtype, shape
TensorInfo = tuple[str, str, Shape]  # name in the graph, dtype, shape
Side = dict[str, TensorInfo]  # the inputs or the outputs of a signature, by key


def metadata(meta_graph: memoryview) -> dict[str, tuple[str, Side, Side]]:
    """{signature: (method, inputs, outputs)}, those of TensorFlow's loader included."""
    return {
        name: (
            _text(dict(fields(signature)).get(3, b"")),
            _side(signature, 1),
            _side(signature, 2),
        )
        for name, signature in _map(meta_graph, 5).items()
    }


def signature_defs(meta_graph: memoryview) -> dict[str, tuple[Side, Side]]:
    """{signature: (inputs, outputs)}."""
    return {
        name: (inputs, outputs)
        for name, (_, inputs, outputs) in metadata(meta_graph).items()
        if not name.startswith("__saved_model_")  # for the loader alone
    }


def fields(message: memoryview | bytes) -> Iterator[tuple[int, Any]]:
    """The (number, value) pairs of a message; a value is an int or a memoryview."""
    end = 0
    while end < len(message):
        key, end = _varint(message, end)
        if key & 7 == 0:
            value, end = _varint(message, end)
            yield key >> 3, value
        else:
            size, end = {1: (8, end), 5: (4, end)}.get(key & 7) or _varint(message, end)
            yield key >> 3, message[end : end + size]
            end += size


def _varint(message: memoryview | bytes, end: int) -> tuple[int, int]:
    """(value, end) of the integer that starts at `end`."""
    value = shift = 0
    while True:
        byte, end = message[end], end + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, end


def _map(message: memoryview, number: int) -> dict[str, memoryview]:
    """{key: message} of a map field, sorted, since its order there is arbitrary."""
    entries = (dict(fields(it)) for found, it in fields(message) if found == number)
    return dict(sorted((_text(entry[1]), entry[2]) for entry in entries))


def _side(signature: memoryview, number: int) -> Side:
    return {key: _tensor_info(it) for key, it in _map(signature, number).items()}


def _tensor_info(message: memoryview) -> TensorInfo:
    info = dict(fields(message))
    code, shape = info.get(2, 0), list(fields(info.get(3, b"")))
    # a size of 0 is left out, and -1, any size, is 64 bits of ones
    sizes = (dict(fields(it)).get(1, 0) for number, it in shape if number == 2)
    sizes = (None if size >> 63 else size for size in sizes)
    is_rank_unknown = bool(dict(shape).get(3))
    dtype = DTYPES.get(code, f"DataType {code}")
    return _text(info.get(1, b"")), dtype, None if is_rank_unknown else tuple(sizes)


def _text(value: memoryview | bytes) -> str:
    return str(value, "utf8")
