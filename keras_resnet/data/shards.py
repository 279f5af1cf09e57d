"""Shards of pictures: planned in one go, then written one by one, whole or not."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_resnet.data.checks.bad import first_sentence
from keras_resnet.data.records import encode_example, index_records
from keras_resnet.data.sources import Source, map_files
from keras_resnet.data.splits import Arrays, Files, Split, hash_facts
from keras_resnet.data.transforms.crop import resize_short
from keras_resnet.data.transforms.decode import (
    MAX_PIXELS,
    check_size,
    decode_image,
    picture_size,
)
from keras_resnet.data.transforms.upright import amend
from keras_resnet.errors import DataError
from keras_resnet.files import sync

FORMAT = 1  # of what is written: work that another one left is begun afresh
WORK = ".work"  # beside the shards: their facts, and what is not whole yet
QUALITY = 92
_RESIZED = 0.67  # bytes a pixel of the short side's square: 0.5 each, and 4:3


@dataclass(frozen=True, eq=False)
class Shard:
    """A file to be, and the numbers of its pictures in their order."""

    file: str
    split: str
    numbers: np.ndarray
    stamp: str  # changes with the files that it is made from


@dataclass(frozen=True, eq=False)
class Plan:
    """What goes where, decided before anything is written; the same everywhere."""

    class_names: tuple[str, ...]
    splits: dict[str, Split]
    resize: int
    upright: bool
    background: str
    shards: tuple[Shard, ...]
    identity: str


def make_plan(
    source: Source,
    seed: int,
    resize: int,
    shard_bytes: int,
    upright: bool = False,
    background: str = "",
) -> Plan:
    """Deals the pictures of each split to shards of about so many bytes."""
    shards = []
    for name, split in source.splits.items():
        stats = _stat_files(split)
        size = sum(size for size, _ in stats)
        if isinstance(split, Arrays):
            size = split.images.nbytes
        if resize:
            size = min(size, split.size * resize**2 * _RESIZED)
        count = min(math.ceil(size / shard_bytes), split.size)
        order = split.order(seed, -1).numpy()  # that of no epoch of training
        for index, numbers in enumerate(np.array_split(order, count)):
            file = f"{name}-{index:05d}-of-{count:05d}.tfrecord"
            one_each = isinstance(split, Files)
            stamp = hash_facts([stats[i] for i in numbers] if one_each else stats)
            shards.append(Shard(file, name, numbers, stamp))
    files = [shard.file for shard in shards]
    facts = [FORMAT, source.fingerprint, seed, resize, files]
    if upright or background:
        facts += [upright, background]
    return Plan(
        class_names=source.class_names,
        splits=source.splits,
        resize=resize,
        upright=upright,
        background=background,
        shards=tuple(shards),
        identity=hash_facts(facts),
    )


def _stat_files(split):
    """(bytes, nanoseconds) of each file; arrays have none."""
    files = split.files if isinstance(split, Files) else getattr(split, "shards", ())
    return [(stat.st_size, stat.st_mtime_ns) for stat in map_files(os.stat, files)]


def stored_pictures(plan: Plan, shards: Sequence[Shard]) -> Iterator[tuple]:
    """(bytes, height, width, label) of the shards' pictures, one shard after another.

    All cores make them, and go on while the caller closes a shard.

    Raises:
        DataError: a picture cannot be read; it is named.
    """
    for name, group in itertools.groupby(shards, lambda shard: shard.split):
        numbers = np.concatenate([shard.numbers for shard in group])
        store = _storing(plan.resize, plan.upright, plan.background)
        yield from _store(plan.splits[name], numbers, store)


def _store(split, numbers, store):
    pictures = (
        split.take(numbers)
        .ordered()
        .map(lambda picture, label: (*store(picture), label), tf.data.AUTOTUNE)
        .prefetch(64)
        .as_numpy_iterator()
    )
    for number in numbers:
        try:
            data, *facts = next(pictures)
        except tf.errors.OpError as error:
            reason = re.sub(r"^Error in .*Iterator::\S+: ", "", first_sentence(error))
            raise DataError(
                f"{split.where(number)}: cannot be read ({reason}); repair or remove it"
            ) from error
        yield data, *map(int, facts)


@functools.cache  # a graph of it takes a second to make
def _storing(resize, upright, background):
    """picture -> (what is stored of it, height, width), as graph operations."""

    @tf.function(autograph=False)
    def store(picture):
        is_file = picture.dtype == tf.string
        data = picture if is_file else tf.io.encode_png(picture)
        if upright or background:
            data = amend(data, upright, background)
        if resize:
            data = _shrink(data, resize)
        height, width = picture_size(data)
        check_size(height, width, MAX_PIXELS)
        return data, height, width

    return store


def _shrink(data, short):
    image = decode_image(data)
    return tf.cond(
        tf.reduce_min(tf.shape(image)[:2]) > short,
        lambda: tf.io.encode_jpeg(resize_short(image, short), quality=QUALITY),
        lambda: data,
    )


def write_shard(folder: Path, plan: Plan, shard: Shard, pictures: Iterator[tuple]):
    """Writes the next of the pictures as a file of the folder, and then its facts."""
    sizes = []
    # its own: a worker that was given up for dead may write the same shard still
    with tempfile.TemporaryDirectory(dir=folder / WORK) as own:
        file, facts_file = Path(own, shard.file), Path(own, "facts")
        try:
            with tf.io.TFRecordWriter(os.fsencode(file)) as writer:
                for picture in itertools.islice(pictures, len(shard.numbers)):
                    data, height, width, label = picture
                    record = encode_example(data, label, plan.class_names[label])
                    writer.write(record)
                    sizes.append([height, width, len(data)])
        except tf.errors.OpError as error:
            raise DataError(
                f"{folder / shard.file}: cannot be written ({first_sentence(error)})"
            ) from error
        with open(file, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        facts = {
            "file": shard.file,
            "records": len(sizes),
            "bytes": file.stat().st_size,
            "sha256": digest,
            "offsets": index_records(file),
        }
        whole = {"stamp": shard.stamp, "sizes": sizes, "shard": facts}
        facts_file.write_text(json.dumps(whole))
        for path in (file, facts_file):
            sync(path)
        os.replace(file, folder / shard.file)
        os.replace(facts_file, _facts_file(folder, shard))


def is_written(folder: Path, shard: Shard) -> bool:
    """Whether an earlier call wrote it, from the files as they are now."""
    try:
        size = (folder / shard.file).stat().st_size
        whole = read_facts(folder, shard)
    except FileNotFoundError:
        return False
    return whole["stamp"] == shard.stamp and whole["shard"]["bytes"] == size


def read_facts(folder: Path, shard: Shard) -> dict:
    """What `write_shard` left: "shard" for the manifest, and [height, width, bytes]."""
    return json.loads(_facts_file(folder, shard).read_text())


def _facts_file(folder, shard):
    return folder / WORK / f"{shard.file}.json"
