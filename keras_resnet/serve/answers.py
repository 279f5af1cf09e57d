"""Formats answers in the JSON format of TensorFlow Serving's REST API."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_resnet.export.metagraph import Shape, Side
from keras_resnet.serve.requests import RequestError

_DTYPES = {"float32": "DT_FLOAT", "float64": "DT_DOUBLE", "float16": "DT_HALF"}
_DTYPES |= {"bfloat16": "DT_BFLOAT16", "int32": "DT_INT32", "int64": "DT_INT64"}
_DTYPES |= {"uint8": "DT_UINT8", "bool": "DT_BOOL", "string": "DT_STRING"}


def write(outputs: Mapping[str, np.ndarray], by_rows: bool) -> bytes:
    """Returns the JSON answer to a Call: `predictions` by rows or `outputs` by columns.

    If there is a single output, its name is omitted. Strings are written as text, or as
    {"b64": ...} if the name of the output ends in _bytes.

    Args:
        outputs: {key: array}.
        by_rows: the `by_rows` of the Call.

    Raises:
        RequestError: 400 if an output is not finite, which JSON cannot express.
    """
    columns = {key: _values(key, array) for key, array in outputs.items()}
    answer: Any = columns
    if len(columns) == 1:
        (answer,) = columns.values()
    elif by_rows:
        answer = [dict(zip(columns, row)) for row in zip(*columns.values())]
    answer = {"predictions" if by_rows else "outputs": answer}
    return json.dumps(answer, allow_nan=False).encode()


def _values(key: str, array: np.ndarray) -> Any:
    if array.dtype.hasobject:
        texts = [_text(key, item) for item in array.flat]
        return np.array(texts, object).reshape(array.shape).tolist()
    if array.dtype.kind in "fV":  # V is the kind of bfloat16
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise RequestError(
                400,
                f"{key} is not finite for these inputs: pixels must be in [0, 255]",
            )
    return array.tolist()


def _text(key: str, item: bytes) -> str | dict[str, str]:
    if key.endswith("_bytes"):
        return {"b64": base64.b64encode(item).decode()}
    return item.decode(errors="replace")


def metadata(
    name: str, version: int, signatures: Mapping[str, tuple[str, Side, Side]]
) -> dict[str, Any]:
    """Returns the answer to .../metadata.

    Args:
        name: the name of the model.
        version: its number.
        signatures: `SavedModel.metadata`.
    """
    described = {
        signature: {
            "inputs": {key: _tensor(*info) for key, info in inputs.items()},
            "outputs": {key: _tensor(*info) for key, info in outputs.items()},
            "method_name": method,
            "defaults": {},
        }
        for signature, (method, inputs, outputs) in signatures.items()
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": described}},
    }


def _tensor(tensor: str, dtype: str, shape: Shape) -> dict[str, Any]:
    sizes = [-1 if size is None else size for size in shape or ()]
    return {
        "dtype": _DTYPES.get(dtype, "DT_INVALID"),
        "tensor_shape": {
            "dim": [{"size": str(size), "name": ""} for size in sizes],
            "unknown_rank": shape is None,
        },
        "name": tensor,
    }


def status(number: int, state: str, error: str | None = None) -> dict[str, Any]:
    """Returns an entry of model_version_status."""
    status = {"error_code": "UNKNOWN" if error else "OK", "error_message": error or ""}
    return {"version": str(number), "state": state, "status": status}
