"""The program of a worker of `validate`, which decodes one picture after another.

`python inspector.py PIPE MEMORY` reads requests as JSON from the pipe with that file
descriptor: a file, or a place in a TFRecord shard. It answers each with the fields of
an `Inspection`. Decoders are C++ and read files that nobody vouches for: if one crashes
it ends this process, and the parent goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

DAMAGED = "damaged record"  # begins the reason where a checksum is wrong
_LONGEST = 500  # characters of a name or reason
EXHAUSTED = 77  # exit code: a picture needed more memory than is allowed


def main(pipe: str, memory: str) -> None:
    sys.path.append(str(Path(__file__).parents[3]))  # the folder of this package
    from keras_resnet.memory import limit_memory

    connection = Connection(int(pipe))
    threading.Thread(target=_leave_with_parent, args=[int(pipe)], daemon=True).start()
    inspect = make_inspector()
    limit_memory(int(memory))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libjpeg prints many warnings
    connection.send_bytes(b"{}")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:  # the parent has ended, or has no more requests
            return
        answer = inspect(request)
        if "reason" in answer:  # it may quote a hostile file
            answer["reason"] = " ".join(answer["reason"].split())[:_LONGEST]
        connection.send_bytes(json.dumps(answer).encode())


def _leave_with_parent(pipe: int) -> None:
    """Ends this process, whatever it does, once the other end of the pipe is closed."""
    poll = select.poll()
    poll.register(pipe, 0)  # no other event
    poll.poll()
    os._exit(0)


def make_inspector() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function from a request to its answer."""
    import tensorflow as tf
    from PIL import Image

    from keras_resnet.data.folders import preflight_problem
    from keras_resnet.data.records import read_record
    from keras_resnet.data.transforms.decode import decode_image, first_sentence, sniff
    from keras_resnet.data.transforms.upright import read_header

    Image.MAX_IMAGE_PIXELS = None  # Pillow reads only headers here
    string, number = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)
    decode = tf.function(decode_image, input_signature=[string])
    fetch = tf.function(read_record, input_signature=[string, number])

    def inspect(request: dict[str, Any]) -> dict[str, Any]:
        try:
            if "file" in request:
                return inspect_file(Path(request["file"]))
            return inspect_record(request)
        except (MemoryError, tf.errors.ResourceExhaustedError):
            os._exit(EXHAUSTED)  # the next picture gets a fresh process

    def inspect_file(file: Path) -> dict[str, Any]:
        answer = {"bytes": file.stat().st_size if file.is_file() else None}
        if problem := preflight_problem(file):
            return answer | {"reason": problem}
        try:
            return inspect_bytes(file.read_bytes())
        except OSError as error:
            return answer | {"reason": f"cannot be read ({error.strerror})"}

    def inspect_record(request: dict[str, Any]) -> dict[str, Any]:
        try:
            record = fetch(os.fsencode(request["shard"]), request["offset"]).numpy()
        except tf.errors.OpError as error:
            return {"reason": f"{DAMAGED} ({first_sentence(error)})"}
        try:
            example = tf.train.Example.FromString(record).features.feature
        except Exception:  # the class depends on which protobuf is installed
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
        return answer | inspect_bytes(values[image])

    def inspect_bytes(data: bytes) -> dict[str, Any]:
        answer = {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "format": sniff(data[:12]),
            **read_header(data),
        }
        try:
            answer["height"], answer["width"], _ = map(int, decode(data).shape)
        except tf.errors.ResourceExhaustedError:
            raise
        except tf.errors.OpError as error:
            answer["reason"] = first_sentence(error)
        return answer

    # the first call makes graph, threads and caches, which count for no picture
    tiny = tf.io.encode_jpeg(tf.zeros([8, 8, 3], tf.uint8)).numpy()
    assert "reason" not in inspect_bytes(tiny)
    return inspect


def _values(example: Any, kinds: dict[str, str]) -> tuple[dict[str, Any], str | None]:
    """{key: value}, and the problem of the first that is missing or of other type."""
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


if __name__ == "__main__":
    main(*sys.argv[1:])
