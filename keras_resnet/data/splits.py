"""A data set: its classes, and the numbered pictures of training and validation."""

from __future__ import annotations

import abc
import functools
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.errors import DataError

Reader = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


@dataclass(frozen=True, eq=False)
class Source:
    """A data set: its classes in the order of the labels, and its splits."""

    path: str
    class_names: tuple[str, ...]
    train: Split | None
    val: Split | None
    # {split: {number: reason}} of the pictures that `validate` could not decode
    bad: dict[str, dict[int, str]] = field(default_factory=dict)
    validated: bool = False  # every picture was decoded, so that `bad` is complete
    skipped: tuple[dict, ...] = ()  # what `without_bad` has left out

    def split(self, name: str) -> Split:
        """The split "train" or "val"; a DataError where there is none."""
        split = self.splits.get(name)
        if split is None:
            raise DataError(
                f"{self.path}: no {name} pictures; put them in {self.path}/{name}/, "
                "one folder a class, or split with `keras-resnet prepare --val 0.2`"
            )
        return split

    @property
    def splits(self) -> dict[str, Split]:
        """Those of {"train": ..., "val": ...} that there are."""
        both = {"train": self.train, "val": self.val}
        return {name: split for name, split in both.items() if split is not None}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with the classes, the files or their labels."""
        identities = {name: split.identity() for name, split in self.splits.items()}
        return hash_json([self.class_names, identities])


@dataclass(frozen=True, eq=False)
class Split(abc.ABC):
    """Labelled pictures in a fixed order; a subclass says how they are stored."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of pictures."""

    @abc.abstractmethod
    def reader(self) -> Reader:
        """number (int64 scalar) -> (picture, label int64), as graph operations.

        A picture is the bytes of a file, or uint8 [H, W, 3] pixels. Make the reader
        once, outside the function that calls it: it holds the whole list.
        """

    @abc.abstractmethod
    def where(self, number: int) -> str:
        """The picture's place as an error names it: a path, or a shard and a record."""

    @abc.abstractmethod
    def take(self, numbers: np.ndarray) -> Split:
        """A split of these pictures alone, in this order."""

    @abc.abstractmethod
    def identity(self) -> list:
        """Changes with the files and labels, not with the folder they lie in."""

    def ordered(self) -> tf.data.Dataset:
        """(picture, label), each once, in the split's own order."""
        return tf.data.Dataset.range(self.size).map(self.reader(), tf.data.AUTOTUNE)

    def order(self, seed: tf.Tensor | int, epoch: tf.Tensor | int) -> tf.Tensor:
        """int64 [size]: a permutation of the numbers, a function of (seed, epoch).

        It is Philox's, the same on every machine, and takes 50 ms for ImageNet.
        """
        key = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
        numbers = tf.range(self.size, dtype=tf.int64)
        return tf.random.experimental.stateless_shuffle(numbers, key, alg="philox")


@dataclass(frozen=True, eq=False)
class Files(Split):
    """One file for each picture."""

    files: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.files)

    def reader(self) -> Reader:
        # as bytes: not all names are UTF-8
        files = tf.constant([os.fsencode(file) for file in self.files])
        labels = tf.constant(self.labels, tf.int64)
        return lambda number: (
            tf.io.read_file(tf.gather(files, number)),
            tf.gather(labels, number),
        )

    def where(self, number: int) -> str:
        return self.files[number]

    def take(self, numbers: np.ndarray) -> Files:
        return Files(
            tuple(self.files[i] for i in numbers),
            tuple(self.labels[i] for i in numbers),
        )

    def identity(self) -> list:
        names = [file.rpartition(os.sep)[2] for file in self.files]
        return [names, list(self.labels)]


@dataclass(frozen=True, eq=False)
class Arrays(Split):
    """Pixels and labels in memory."""

    images: np.ndarray  # uint8 [size, H, W, 3]
    labels: np.ndarray  # int64 [size]

    @property
    def size(self) -> int:
        return len(self.images)

    def reader(self) -> Reader:
        images, labels = tf.constant(self.images), tf.constant(self.labels)
        return lambda number: (tf.gather(images, number), tf.gather(labels, number))

    def where(self, number: int) -> str:
        return f"picture {number} of the array"

    def take(self, numbers: np.ndarray) -> Arrays:
        return Arrays(self.images[numbers], self.labels[numbers])

    def identity(self) -> list:
        contents = (self.images.tobytes(), self.labels.tobytes())
        return [hashlib.sha256(content).hexdigest() for content in contents]


def hash_json(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
