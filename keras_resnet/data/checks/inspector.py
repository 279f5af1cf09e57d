"""A program that looks at pictures one after another, for `validate`.

`python inspector.py PIPE MEMORY` takes requests as JSON over the pipe of that number: a
file, or a place in a TFRecord shard. It answers each with what that is, and why it
cannot be used. Decoders are C++ and read what anybody wrote: what goes wrong there ends
this process, and its parent goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

DAMAGED = "damaged record"  # by its checksums
_LONGEST = 500  # characters of a name or reason
EXHAUSTED = 77  # exit code: a picture needed more memory than there may be


def main(pipe, memory):
    sys.path.append(str(Path(__file__).parents[3]))  # where this very package is
    from keras_resnet.weights.readers.tf_checkpoint_process import limit_memory

    connection = Connection(int(pipe))
    threading.Thread(target=_leave_with_parent, args=[int(pipe)], daemon=True).start()
    look = _looker()
    limit_memory(int(memory))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libjpeg has much to say
    connection.send_bytes(b"{}")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:  # the parent is gone, or has no more
            return
        answer = look(request)
        if "reason" in answer:  # it may quote what a hostile file says
            answer["reason"] = " ".join(answer["reason"].split())[:_LONGEST]
        connection.send_bytes(json.dumps(answer).encode())


def _leave_with_parent(pipe):
    """Ends this process once the other end is closed, whatever it is at."""
    poll = select.poll()
    poll.register(pipe, 0)  # no event but that
    poll.poll()
    os._exit(0)


def _looker():
    """request -> answer."""
    import tensorflow as tf
    from PIL import Image

    from keras_resnet.data.checks.bad import first_sentence
    from keras_resnet.data.sources import preflight_problem
    from keras_resnet.data.splits import read_record
    from keras_resnet.data.transforms.decode import decode_image, sniff
    from keras_resnet.data.transforms.upright import read_header

    Image.MAX_IMAGE_PIXELS = None  # Pillow reads headers alone here
    string, number = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)
    decode = tf.function(decode_image, input_signature=[string])
    fetch = tf.function(read_record, input_signature=[string, number])

    def look(request):
        try:
            look_at = look_at_file if "file" in request else look_at_record
            return look_at(request)
        except (MemoryError, tf.errors.ResourceExhaustedError):
            os._exit(EXHAUSTED)  # and leave no half-filled heap to the next picture

    def look_at_file(request):
        file = Path(request["file"])
        facts = {"bytes": file.stat().st_size if file.is_file() else None}
        if problem := preflight_problem(file):
            return facts | {"reason": problem}
        try:
            return look_at_bytes(file.read_bytes())
        except OSError as error:
            return facts | {"reason": f"cannot be read ({error.strerror})"}

    def look_at_record(request):
        try:
            record = fetch(os.fsencode(request["shard"]), request["offset"]).numpy()
        except tf.errors.OpError as error:
            return {"reason": f"{DAMAGED} ({first_sentence(error)})"}
        try:
            example = tf.train.Example.FromString(record).features.feature
        except Exception:  # the class depends on which protobuf is installed
            return {"reason": "no tf.train.Example"}
        facts = {}
        image, label, *texts = request["keys"]
        values, problem = _values(example, {image: "bytes_list", label: "int64_list"})
        if label in values:
            facts["label"] = values[label]
        if problem:
            return facts | {"reason": problem}
        for name, key in zip(("text", "synset"), texts):
            found, _ = _values(example, {key: "bytes_list"})
            if key in found:
                facts[name] = found[key][:_LONGEST].decode(errors="replace")
        return facts | look_at_bytes(values[image])

    def look_at_bytes(data):
        facts = {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "format": sniff(data[:12]),
            **read_header(data),
        }
        try:
            facts["height"], facts["width"], _ = map(int, decode(data).shape)
        except tf.errors.ResourceExhaustedError:
            raise
        except tf.errors.OpError as error:
            facts["reason"] = first_sentence(error)
        return facts

    # the first call makes graph, threads and caches: no picture's memory
    tiny = tf.io.encode_jpeg(tf.zeros([8, 8, 3], tf.uint8)).numpy()
    assert "reason" not in look_at_bytes(tiny)
    return look


def _values(example, kinds):
    """({key: value}, what is wrong with the first that is missing or of other type)."""
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
