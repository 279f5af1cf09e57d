"""Parses requests in the JSON format of TensorFlow Serving's REST API.

The format is that of https://www.tensorflow.org/tfx/serving/api_rest: `instances` is a
list of rows, and `inputs` has columns; bytes are {"b64": "..."}; the name of a single
input may be omitted. Unlike TensorFlow Serving, NaN and infinities are refused, because
they are not JSON.
"""

import base64
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from keras_resnet.errors import Error
from keras_resnet.export.metagraph import Shape, Spec

DEFAULT_SIGNATURE = "serving_default"
_MAX_BYTES = 1000  # of an error message
_MAX_RANK = 32
_LEAVES: dict[str, tuple[set[type], str]] = {
    "b": ({bool}, "true or false"),
    "f": ({int, float}, "a number"),
}
_LEAVES |= {"i": ({int}, "a whole number"), "u": ({int}, "a whole number")}


class RequestError(Error):
    """A refused request: an HTTP status and a message of at most 1000 bytes."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(brief(message))
        self.status = status


def brief(message: str) -> str:
    """Cuts a message, which may quote a part of the request, to at most 1000 bytes."""
    data = message.encode(errors="backslashreplace")
    if len(data) <= _MAX_BYTES:
        return data.decode()
    return f"{data[: _MAX_BYTES - 3].decode(errors='ignore')}..."


@dataclass
class Call:
    """A parsed request."""

    signature: str
    inputs: dict[str, np.ndarray]
    rows: int  # the size of the first dimension of all inputs
    by_rows: bool  # the request has `instances`, so the answer needs `predictions`


def read(body: bytes, signatures: Mapping[str, Any], max_rows: int) -> Call:
    """Parses the body of a request and returns it as a Call.

    Args:
        body: JSON.
        signatures: `SavedModel.signatures`.
        max_rows: the largest number of rows that is accepted.

    Raises:
        RequestError: 400 if the request is invalid, with a message that names what is
            wrong and what is expected; 413 if it has more rows than `max_rows`.
    """
    request = parse(body)
    signature = request.get("signature_name")
    if signature in (None, ""):
        signature = DEFAULT_SIGNATURE
    if not isinstance(signature, str) or signature not in signatures:
        known = ", ".join(sorted(signatures))
        _refuse(f"signature_name={_short(signature)}: must be one of {known}")
    sources = signatures[signature]["inputs"]
    by_rows = "instances" in request
    if by_rows == ("inputs" in request):
        _refuse("must have either instances, a list of rows, or inputs, by columns")
    if by_rows:
        columns = _from_rows(request["instances"], sources, max_rows)
    else:
        columns = _from_columns(request["inputs"], sources)
    inputs = {key: _array(key, columns[key], *sources[key]) for key in sources}
    return Call(signature, inputs, _count(inputs, max_rows), by_rows)


def parse(body: bytes) -> dict[str, Any]:
    """Parses the body of a request and returns its JSON object.

    Raises:
        RequestError: 400 if it is not a JSON object.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON; numbers must be finite")

    try:
        request = json.loads(body, parse_constant=refuse)
    except RecursionError:
        _refuse("the request is nested too deep for any input")
    except ValueError as error:  # includes invalid UTF-8
        _refuse(f"the request is not JSON: {error}")
    if not isinstance(request, dict):
        _refuse("the request must be a JSON object with instances or inputs")
    return request


def _from_rows(
    rows: Any, sources: Mapping[str, Spec], max_rows: int
) -> Mapping[str, Any]:
    if not isinstance(rows, list):
        _refuse(f"instances={_short(rows)}: must be a list of rows")
    if len(rows) > max_rows:
        _too_many(len(rows), max_rows)
    named = [isinstance(row, dict) and not _is_b64(row) for row in rows]
    if not any(named):
        if len(sources) != 1:
            _refuse(f"a row of instances must be an object with {_list(sources)}")
        return dict.fromkeys(sources, rows)
    for index, row in enumerate(rows):
        _check_keys(f"instances[{index}]", row if named[index] else {}, sources)
    return {key: [row[key] for row in rows] for key in sources}


def _from_columns(inputs: Any, sources: Mapping[str, Spec]) -> Mapping[str, Any]:
    if isinstance(inputs, dict) and not _is_b64(inputs):
        _check_keys("inputs", inputs, sources)
        return inputs
    if len(sources) != 1:
        _refuse(f"inputs must be an object with {_list(sources)}")
    return dict.fromkeys(sources, inputs)


def _check_keys(
    where: str, given: Mapping[str, Any], sources: Mapping[str, Spec]
) -> None:
    if given.keys() != sources.keys():
        names = ", ".join(map(_short, sorted(given))) or "none of them"
        _refuse(f"{where} must have {_list(sources)}, and has {names}")


def _count(inputs: Mapping[str, np.ndarray], max_rows: int) -> int:
    counts = {array.shape[:1] for array in inputs.values()}
    if len(counts) != 1 or counts == {()}:
        _refuse("all inputs must have the same number of rows")
    rows = counts.pop()[0]
    if rows < 1:
        _refuse("there are no rows: there must be at least one")
    if rows > max_rows:
        _too_many(rows, max_rows)
    return rows


def _array(key: str, value: Any, dtype: str, shape: Shape) -> np.ndarray:
    """Converts the JSON value of an input to an array of the given dtype.

    Raises:
        RequestError: 400 if the value does not have the dtype and the shape.
    """
    sizes: list[int] = []
    level = [value]
    while (kinds := set(map(type, level))) == {list} and len(sizes) < _MAX_RANK:
        lengths = set(map(len, level))
        if len(lengths) > 1:
            _refuse(
                f"{key} is ragged: lists at depth {len(sizes) + 1} differ in length"
            )
        sizes.append(lengths.pop())
        level = list(itertools.chain.from_iterable(level))
    if list in kinds:
        _refuse(f"{key} is ragged, or of more than {_MAX_RANK} dimensions")
    _check_shape(key, sizes, shape)
    if dtype == "string":
        flat = np.empty(len(level), object)
        flat[:] = [_bytes(key, item) for item in level]
        return flat.reshape(sizes)
    try:
        allowed, wanted = _LEAVES[np.dtype(dtype).kind]
        odd = kinds - allowed
        if odd:
            item = next(item for item in level if type(item) in odd)
            _refuse(f"{key} holds {_short(item)}: must be {wanted}, {dtype}")
        with np.errstate(over="ignore"):
            array = np.array(level, dtype).reshape(sizes)
    except (TypeError, KeyError):  # a dtype that JSON cannot hold
        _refuse(f"{key} is {dtype}, which this server does not read from JSON")
    except (ValueError, OverflowError) as error:
        _refuse(f"{key} does not fit into {dtype}: {error}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        _refuse(f"{key} holds a number beyond {dtype}: numbers must be finite")
    return array


def _check_shape(key: str, sizes: list[int], shape: Shape) -> None:
    if shape is None:
        return
    fits = len(sizes) == len(shape)
    if not fits or any(m not in (n, None) for n, m in zip(sizes, shape)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        _refuse(f"{key} has shape {sizes}: must be [{wanted}]")


def _bytes(key: str, item: Any) -> bytes:
    if isinstance(item, str):
        try:
            return item.encode()
        except UnicodeEncodeError:  # JSON allows escapes of single surrogates
            _refuse(f"{key} holds a string that is not Unicode; bytes must be base64")
    if not isinstance(item, dict) or not _is_b64(item):
        _refuse(f'{key} holds {_short(item)}: must be {{"b64": "..."}} or a string')
    text = "".join(item["b64"].split())
    if "=" not in text:  # TensorFlow Serving accepts base64 without padding too
        text += "=" * (-len(text) % 4)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        _refuse(f"{key} holds b64 that is not base64: {error}")


def _is_b64(value: dict[str, Any]) -> bool:
    return value.keys() == {"b64"} and isinstance(value["b64"], str)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _short(value: Any) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:60]}..."


def _too_many(rows: int, max_rows: int) -> NoReturn:
    raise RequestError(413, f"{rows} rows: must be at most {max_rows} a request")


def _refuse(message: str) -> NoReturn:
    raise RequestError(400, message)
