"""Inspects an image in a worker process of `validate`: header, hash and damage."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_resnet.data.folders import preflight_problem
from keras_resnet.data.records import FORMAT_KEY, MISFIT, RAW, SIDES, read_record
from keras_resnet.data.transforms.decode import decode_image, first_sentence, sniff
from keras_resnet.data.transforms.upright import read_header

DAMAGED = "damaged record"  # the start of the reason if a checksum is wrong
OUT_OF_MEMORY = (MemoryError, tf.errors.ResourceExhaustedError)
_LONGEST = 500  # the most characters of a name or reason

_STRING, _NUMBER = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)
_decode = tf.function(decode_image, input_signature=[_STRING])
_fetch = tf.function(read_record, input_signature=[_STRING, _NUMBER])


def warm_up() -> None:
    """Creates graphs, threads and caches, so that no image is charged their memory."""
    tiny = tf.io.encode_jpeg(tf.zeros([8, 8, 3], tf.uint8)).numpy()
    assert "reason" not in _inspect_bytes(tiny)


def inspect(request: dict[str, Any]) -> dict[str, Any]:
    """Inspects an image.

    Args:
        request: {"file": path}, or the "shard", "offset" and "keys" of a record.

    Returns:
        The fields of an `Inspection`, with a "reason" if the image cannot be used.
    """
    if "file" in request:
        answer = _inspect_file(Path(request["file"]))
    else:
        answer = _inspect_record(request)
    if "reason" in answer:  # may quote a malicious file
        answer["reason"] = " ".join(answer["reason"].split())[:_LONGEST]
    return answer


def _inspect_file(file: Path) -> dict[str, Any]:
    answer = {"bytes": file.stat().st_size if file.is_file() else None}
    if problem := preflight_problem(file):
        return answer | {"reason": problem}
    try:
        return _inspect_bytes(file.read_bytes())
    except OSError as error:
        return answer | {"reason": f"cannot be read ({error.strerror})"}


def _inspect_record(request: dict[str, Any]) -> dict[str, Any]:
    try:
        record = _fetch(os.fsencode(request["shard"]), request["offset"]).numpy()
    except tf.errors.OpError as error:
        return {"reason": f"{DAMAGED} ({first_sentence(error)})"}
    try:
        example = tf.train.Example.FromString(record).features.feature
    except Exception:  # the class depends on the implementation of protobuf
        return {"reason": "no tf.train.Example"}
    answer = {}
    image, label, *texts = request["keys"]
    values, problem = _values(example, {image: "bytes_list", label: "int64_list"})
    if label in values:
        answer["label"] = values[label]
    if problem:
        return answer | {"reason": problem}
    for name, key in zip(("text", "synset"), texts):
        found, _ = _values(example, {key: "bytes_list"})
        if key in found:
            answer[name] = found[key][:_LONGEST].decode(errors="replace")
    form, _ = _values(example, {FORMAT_KEY: "bytes_list"})
    if form.get(FORMAT_KEY) == RAW:
        return answer | _inspect_pixels(values[image], example)
    return answer | _inspect_bytes(values[image])


def _inspect_pixels(data: bytes, example: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "format": RAW.decode(),
        "mode": "RGB",
    }
    values, problem = _values(example, dict.fromkeys(SIDES, "int64_list"))
    if problem:
        return answer | {"reason": problem}
    height, width = (values[side] for side in SIDES)
    if min(height, width) <= 0 or len(data) != height * width * 3:
        found = f"{MISFIT} {len(data)} for height and width: {height} {width}"
        return answer | {"reason": found}
    return answer | {"height": height, "width": width}


def _inspect_bytes(data: bytes) -> dict[str, Any]:
    answer = {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "format": sniff(data[:12]),
        **read_header(data),
    }
    try:
        answer["height"], answer["width"], _ = map(int, _decode(data).shape)
    except tf.errors.ResourceExhaustedError:
        raise
    except tf.errors.OpError as error:
        answer["reason"] = first_sentence(error)
    return answer


def _values(example: Any, kinds: dict[str, str]) -> tuple[dict[str, Any], str | None]:
    """Returns {key: value}, and the problem of the first bad key or None.

    A key is bad if its feature is missing, has another kind, or has not one value.
    """
    values, problem = {}, None
    for key, kind in kinds.items():
        given = example[key].WhichOneof("kind") if key in example else ""
        found = getattr(example[key], kind).value if given == kind else []
        if len(found) == 1:
            values[key] = found[0]
        elif problem is None and not given:
            problem = f"no {key}; its fields are {', '.join(sorted(example)) or 'none'}"
        elif problem is None:
            count = len(getattr(example[key], given).value)
            problem = f"{key} is a {given} of {count}, must be one in an {kind}"
    return values, problem
