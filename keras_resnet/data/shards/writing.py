"""Writes shards one by one, and each of them atomically."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data.records import encode_example, index_records
from keras_resnet.data.shards.plan import Plan, Shard
from keras_resnet.data.splits import Split
from keras_resnet.data.transforms.crop import resize_short
from keras_resnet.data.transforms.decode import (
    MAX_PIXELS,
    check_size,
    decode_image,
    first_sentence,
    picture_size,
)
from keras_resnet.data.transforms.upright import amend
from keras_resnet.errors import DataError
from keras_resnet.files import sha256, sync

WORK = ".work"  # the folder of summaries and unfinished files, next to the shards
_QUALITY = 92  # of JPEGs

# (the bytes to store, height, width, label) of an image
Stored = tuple[bytes, int, int, int]
# image -> (bytes or pixels to store, height, width)
Store = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


def stored_pictures(plan: Plan, shards: Sequence[Shard]) -> Iterator[Stored]:
    """Yields the images of the shards as they are to be stored, shard by shard.

    They are prepared on all cores, and this continues while the caller closes a shard.

    Raises:
        DataError: an image cannot be read. The message names it.
    """
    for name, group in itertools.groupby(shards, lambda shard: shard.split):
        numbers = np.concatenate([shard.numbers for shard in group])
        store = _make_store(plan.resize, plan.upright, plan.background, plan.raw)
        ahead = 8 if plan.raw else 64  # pixels take memory
        yield from _store(plan.splits[name], numbers, store, ahead)


def _store(
    split: Split, numbers: np.ndarray, store: Store, ahead: int
) -> Iterator[Stored]:
    pictures = (
        split.take(numbers)
        .ordered()
        .map(lambda picture, label: (*store(picture), label), tf.data.AUTOTUNE)
        .prefetch(ahead)
        .as_numpy_iterator()
    )
    for number in numbers:
        try:
            data, height, width, label = next(pictures)
        except tf.errors.OpError as error:
            reason = re.sub(r"^Error in .*Iterator::\S+: ", "", first_sentence(error))
            raise DataError(
                f"{split.where(number)}: cannot be read ({reason}); repair or remove it"
            ) from error
        data = data if isinstance(data, bytes) else data.tobytes()
        yield data, int(height), int(width), int(label)


@functools.cache  # tracing the graph takes a second
def _make_store(resize: int, upright: bool, background: str, raw: bool) -> Store:
    """Returns a tf.function of an image, as a source gives it."""

    @tf.function(autograph=False)
    def store(picture: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        is_file = picture.dtype == tf.string
        data = picture if is_file or raw else tf.io.encode_png(picture)
        if is_file and (upright or background):
            data = amend(data, upright, background)
        if raw:
            data = decode_image(data)
        if resize:
            data = _shrink(data, resize)
        height, width = picture_size(data)
        check_size(height, width, MAX_PIXELS)
        return data, height, width

    return store


def _shrink(data: tf.Tensor, short: int) -> tf.Tensor:
    image, is_file = decode_image(data), data.dtype == tf.string

    def shrunk() -> tf.Tensor:
        smaller = resize_short(image, short)
        return tf.io.encode_jpeg(smaller, quality=_QUALITY) if is_file else smaller

    return tf.cond(tf.reduce_min(tf.shape(image)[:2]) > short, shrunk, lambda: data)


def write_shard(
    folder: Path, plan: Plan, shard: Shard, pictures: Iterator[Stored]
) -> None:
    """Writes the next images of the iterator as a shard, and then its summary."""
    sizes = []
    # in a new folder, as a Beam worker presumed dead may still write the same shard
    with tempfile.TemporaryDirectory(dir=folder / WORK) as own:
        file, summary_file = Path(own, shard.file), Path(own, "summary")
        try:
            with tf.io.TFRecordWriter(os.fsencode(file)) as writer:
                own_pictures = itertools.islice(pictures, len(shard.numbers))
                for data, height, width, label in own_pictures:
                    sides = (height, width) if plan.raw else None
                    text = plan.class_names[label]
                    record = encode_example(data, label, text, sides)
                    writer.write(record)
                    sizes.append([height, width, len(data)])
        except tf.errors.OpError as error:
            raise DataError(
                f"{folder / shard.file}: cannot be written ({first_sentence(error)})"
            ) from error
        entry = {
            "file": shard.file,
            "records": len(sizes),
            "bytes": file.stat().st_size,
            "sha256": sha256(file),
            "offsets": index_records(file),
        }
        summary = {"stamp": shard.stamp, "sizes": sizes, "shard": entry}
        summary_file.write_text(json.dumps(summary))
        for path in (file, summary_file):
            sync(path)
        os.replace(file, folder / shard.file)
        os.replace(summary_file, _summary_file(folder, shard))


def is_written(folder: Path, shard: Shard) -> bool:
    """Whether the shard is complete and the source's files have not changed since."""
    try:
        size = (folder / shard.file).stat().st_size
        summary = read_summary(folder, shard)
    except FileNotFoundError:
        return False
    return summary["stamp"] == shard.stamp and summary["shard"]["bytes"] == size


def read_summary(folder: Path, shard: Shard) -> dict[str, Any]:
    """Reads the summary that `write_shard` wrote.

    Returns:
        {"stamp": the stamp of the shard, "shard": its entry in the manifest,
        "sizes": [[height, width, bytes], ...]}.
    """
    return json.loads(_summary_file(folder, shard).read_text())


def _summary_file(folder: Path, shard: Shard) -> Path:
    return folder / WORK / f"{shard.file}.json"
