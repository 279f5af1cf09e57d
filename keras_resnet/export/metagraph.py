"""Reads the signatures of a MetaGraphDef without the protobuf package."""

from collections.abc import Iterator
from typing import Any

# {TensorFlow's DataType: its name}; NumPy has the same names, except for string
DTYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 7: "string"}
DTYPES |= {9: "int64", 10: "bool", 14: "bfloat16", 19: "float16"}

Shape = tuple[int | None, ...] | None  # None: any size, or unknown rank
Spec = tuple[str, Shape]  # dtype, shape
TensorInfo = tuple[str, str, Shape]  # name in the graph, dtype, shape
Side = dict[str, TensorInfo]  # the inputs or the outputs of a signature


def metadata(meta_graph: memoryview) -> dict[str, tuple[str, Side, Side]]:
    """Returns {signature: (method, inputs, outputs)}, with internal signatures."""
    return {
        name: (
            _text(dict(fields(signature)).get(3, b"")),
            _side(signature, 1),
            _side(signature, 2),
        )
        for name, signature in _map(meta_graph, 5).items()
    }


def signature_defs(meta_graph: memoryview) -> dict[str, tuple[Side, Side]]:
    """Returns {signature: (inputs, outputs)} without internal signatures."""
    return {
        name: (inputs, outputs)
        for name, (_, inputs, outputs) in metadata(meta_graph).items()
        if not name.startswith("__saved_model_")  # only for TensorFlow's loader
    }


def fields(message: memoryview | bytes) -> Iterator[tuple[int, Any]]:
    """Yields the (field number, value) pairs of a message.

    A value is an int for a varint field, and a slice of the message for any other.
    """
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
    """Returns (value, its end) of the varint that starts at `end`."""
    value = shift = 0
    while True:
        byte, end = message[end], end + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, end


def _map(message: memoryview, number: int) -> dict[str, memoryview]:
    """Returns {key: message} of a map field, sorted, because maps have no order."""
    entries = (dict(fields(part)) for field, part in fields(message) if field == number)
    return dict(sorted((_text(entry[1]), entry[2]) for entry in entries))


def _side(signature: memoryview, number: int) -> Side:
    return {key: _tensor_info(info) for key, info in _map(signature, number).items()}


def _tensor_info(message: memoryview) -> TensorInfo:
    info = dict(fields(message))
    code, shape = info.get(2, 0), list(fields(info.get(3, b"")))
    # a size of 0 is omitted; -1, which means any size, is encoded as 64 bits of ones
    sizes = (dict(fields(dim)).get(1, 0) for field, dim in shape if field == 2)
    sizes = (None if size >> 63 else size for size in sizes)
    is_rank_unknown = bool(dict(shape).get(3))
    dtype = DTYPES.get(code, f"DataType {code}")
    return _text(info.get(1, b"")), dtype, None if is_rank_unknown else tuple(sizes)


def _text(value: memoryview | bytes) -> str:
    return str(value, "utf8")
