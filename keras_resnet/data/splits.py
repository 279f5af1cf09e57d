"""The pictures of training or validation, each with a number, read one by one."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

AUTOTUNE = tf.data.AUTOTUNE


@dataclass(frozen=True, eq=False)
class Split(abc.ABC):
    """`size` pictures with labels, in a fixed order; what stores them is a subclass."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Pictures in the split."""

    @abc.abstractmethod
    def reader(self) -> Callable:
        """number (int64 scalar) -> (picture, label int64), as graph operations.

        A picture is the bytes of a file, or uint8 [H, W, 3] pixels. Make it once,
        outside the function that calls it: it holds the whole list.
        """

    @abc.abstractmethod
    def where(self, number: int) -> str:
        """What a person calls this picture: a path, or a shard and a record."""

    @abc.abstractmethod
    def take(self, numbers: np.ndarray) -> Split:
        """A split of these pictures alone, in this order."""

    @abc.abstractmethod
    def facts(self) -> list:
        """What tells this split from another, without the folder it lies in."""

    def ordered(self) -> tf.data.Dataset:
        """(picture, label), each once, in the split's own order."""
        return tf.data.Dataset.range(self.size).map(self.reader(), AUTOTUNE)

    def order(self, seed, epoch) -> tf.Tensor:
        """int64 [size]: the numbers in the order that (seed, epoch) determine.

        Philox, whatever the machine; epoch may be a tensor. 50 ms for ImageNet.
        """
        key = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
        numbers = tf.range(self.size, dtype=tf.int64)
        return tf.random.experimental.stateless_shuffle(numbers, key, alg="philox")


@dataclass(frozen=True, eq=False)
class Files(Split):
    """A picture a file."""

    files: tuple[str, ...]
    classes: tuple[int, ...]  # the label of each

    @property
    def size(self):
        return len(self.files)

    def reader(self):
        # names are bytes: not all are UTF-8
        files = tf.constant([os.fsencode(file) for file in self.files])
        labels = tf.constant(self.classes, tf.int64)
        return lambda number: (
            tf.io.read_file(tf.gather(files, number)),
            tf.gather(labels, number),
        )

    def where(self, number):
        return self.files[number]

    def take(self, numbers):
        return Files(
            tuple(self.files[i] for i in numbers),
            tuple(self.classes[i] for i in numbers),
        )

    def facts(self):
        names = [file.rpartition(os.sep)[2] for file in self.files]
        return [names, list(self.classes)]


@dataclass(frozen=True, eq=False)
class Records(Split):
    """A picture a tf.train.Example in TFRecord shards, each found by its offset."""

    shards: tuple[str, ...]
    shard: np.ndarray  # int64 [size], which one
    offset: np.ndarray  # int64 [size], bytes from its start
    record: np.ndarray  # int64 [size], records before it in the shard
    class_count: int
    first_label: int = 0  # what the records call class 0
    keys: tuple[str, str] = ("image/encoded", "image/class/label")

    @property
    def size(self):
        return len(self.offset)

    def reader(self):
        shards = tf.constant([os.fsencode(shard) for shard in self.shards])
        shard, offset = tf.constant(self.shard), tf.constant(self.offset)
        image, label = self.keys
        features = {
            image: tf.io.FixedLenFeature([], tf.string),
            label: tf.io.FixedLenFeature([], tf.int64),
        }

        def read(number):
            file = tf.gather(shards, tf.gather(shard, number))
            record = read_record(file, tf.gather(offset, number))
            example = tf.io.parse_single_example(record, features)
            # one_hot would make zeros of a label out of range
            given = example[label] - self.first_label
            known = (given >= 0) & (given < self.class_count)
            with tf.control_dependencies([_check_label(known, example[label])]):
                return example[image], tf.identity(given)

        return read

    def where(self, number):
        return f"{self.shards[self.shard[number]]}: record {self.record[number]}"

    def take(self, numbers):
        return dataclasses.replace(
            self,
            shard=self.shard[numbers],
            offset=self.offset[numbers],
            record=self.record[numbers],
        )

    def facts(self):
        places = np.stack([self.shard, self.offset]).astype(np.int64)
        digest = hashlib.sha256(places.tobytes()).hexdigest()
        names = [Path(shard).name for shard in self.shards]
        return [names, digest, self.first_label]


@dataclass(frozen=True, eq=False)
class Arrays(Split):
    """Pixels and labels in memory."""

    images: np.ndarray  # uint8 [size, H, W, 3]
    classes: np.ndarray  # int64 [size]

    @property
    def size(self):
        return len(self.images)

    def reader(self):
        images, labels = tf.constant(self.images), tf.constant(self.classes)
        return lambda number: (tf.gather(images, number), tf.gather(labels, number))

    def where(self, number):
        return f"picture {number} of the array"

    def take(self, numbers):
        return Arrays(self.images[numbers], self.classes[numbers])

    def facts(self):
        contents = (self.images.tobytes(), self.classes.tobytes())
        return [hashlib.sha256(content).hexdigest() for content in contents]


def read_record(shard, offset):
    """The TFRecord at a byte offset of a shard, its checksums verified, in a graph."""
    records = tf.raw_ops.TFRecordDatasetV2(
        filenames=tf.reshape(shard, [1]),
        compression_type="",
        buffer_size=tf.constant(0, tf.int64),  # no read beyond the record
        byte_offsets=tf.reshape(offset, [1]),
    )
    kind = {"output_types": [tf.string], "output_shapes": [[]]}
    first = tf.raw_ops.TakeDataset(
        input_dataset=records, count=tf.constant(1, tf.int64), **kind
    )
    return tf.raw_ops.DatasetToSingleElement(dataset=first, **kind)[0]


def _check_label(known, label):
    return tf.debugging.Assert(known, ["label out of range:", label])


def hash_facts(facts: Iterable) -> str:
    """16 hexadecimal digits that change with the facts."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
