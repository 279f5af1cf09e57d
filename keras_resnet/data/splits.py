"""Sources and their splits: the classes and the numbered images of a data set."""

from __future__ import annotations

import abc
import dataclasses
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
    """A data set: its class names in the order of the labels, and its splits."""

    path: str
    class_names: tuple[str, ...]
    train: Split | None
    val: Split | None
    # {split: {number: reason}} of the images that `validate` could not decode
    bad: dict[str, dict[int, str]] = field(default_factory=dict)
    validated: bool = False  # every image has been decoded, so that `bad` is complete
    skipped: tuple[dict, ...] = ()  # the images that `without_bad` has left out
    task: str = "classify"  # or "detect", "segment"
    # {split: {what: how many}} of annotations, and lines about those that are left out
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    several_labels: bool = False  # an image may have, as vectors of zeros and ones

    def check_one_label(self, what: str) -> None:
        """Raises a DataError if the images have several labels."""
        if self.several_labels:
            raise DataError(
                f"{self.path}: its images have several labels, and {what} takes one "
                "label an image; give a table with the column label"
            )

    def split(self, name: str) -> Split:
        """The split "train" or "val"; raises a DataError if the source lacks it."""
        split = self.splits.get(name)
        if split is None:
            raise DataError(
                f"{self.path}: no {name} pictures; put them in {self.path}/{name}/, "
                "one folder per class, or split with `keras-resnet prepare --val 0.2`"
            )
        return split

    @property
    def splits(self) -> dict[str, Split]:
        """{"train": split, "val": split}, without a split that the source lacks."""
        both = {"train": self.train, "val": self.val}
        return {name: split for name, split in both.items() if split is not None}

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the class names and of the identities of the splits."""
        identities = {name: split.identity() for name, split in self.splits.items()}
        return hash_json([self.class_names, identities])


@dataclass(frozen=True, eq=False)
class Split(abc.ABC):
    """Labeled images in a fixed order; subclasses define how they are stored."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of images."""

    @abc.abstractmethod
    def reader(self) -> Reader:
        """Returns a function number -> (image, label) made of graph operations.

        The number and the label are int64 scalars. The image is the bytes of a file, or
        uint8 [H, W, 3] pixels. Create the reader outside of the function that calls it,
        since it holds the list of all files.
        """

    @abc.abstractmethod
    def where(self, number: int) -> str:
        """The place of an image for error messages: a path, or a shard and a record."""

    @abc.abstractmethod
    def take(self, numbers: np.ndarray) -> Split:
        """A split of only these images, in this order."""

    @abc.abstractmethod
    def identity(self) -> list:
        """A value that depends on the files and labels, but not on their folder."""

    def ordered(self) -> tf.data.Dataset:
        """All pairs (image, label) once, in the order of the split."""
        return tf.data.Dataset.range(self.size).map(self.reader(), tf.data.AUTOTUNE)

    def all_labels(self) -> np.ndarray:
        """The class of each image, int64 [size]; by default every image is read."""
        return np.array([label for _, label in self.ordered().as_numpy_iterator()])

    def order(self, seed: tf.Tensor | int, epoch: tf.Tensor | int) -> tf.Tensor:
        """A permutation of the numbers, int64 [size], determined by (seed, epoch).

        It uses the Philox generator and is the same on every machine. For ImageNet it
        takes 50 ms.
        """
        key = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
        numbers = tf.range(self.size, dtype=tf.int64)
        return tf.random.experimental.stateless_shuffle(numbers, key, alg="philox")


@dataclass(frozen=True, eq=False)
class Files(Split):
    """A split with one file for each image."""

    files: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.files)

    def reader(self) -> Reader:
        # bytes, as file names need not be UTF-8
        files = tf.constant([os.fsencode(file) for file in self.files])
        labels = tf.constant(self.labels, tf.int64)
        return lambda number: (
            tf.io.read_file(tf.gather(files, number)),
            tf.gather(labels, number),
        )

    def where(self, number: int) -> str:
        return self.files[number]

    def all_labels(self) -> np.ndarray:
        return np.array(self.labels, np.int64)

    def take(self, numbers: np.ndarray) -> Files:
        return dataclasses.replace(
            self,
            files=tuple(self.files[i] for i in numbers),
            labels=tuple(self.labels[i] for i in numbers),
        )

    def identity(self) -> list:
        names = [file.rpartition(os.sep)[2] for file in self.files]
        return [names, list(self.labels)]


@dataclass(frozen=True, eq=False)
class Tagged(Files):
    """A split with one file for each image, and none, one or several labels of each.

    The label that its reader gives is a float32 vector [classes] of zeros and ones.
    """

    labels: tuple[tuple[int, ...], ...]  # type: ignore[assignment]
    classes: int

    def reader(self) -> Reader:
        files = tf.constant([os.fsencode(file) for file in self.files])
        ends = tf.constant(np.cumsum([0, *map(len, self.labels)]), tf.int64)
        values = tf.constant([it for some in self.labels for it in some], tf.int64)

        def read(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            some = values[tf.gather(ends, number) : tf.gather(ends, number + 1)]
            ones = tf.ones(tf.shape(some))
            label = tf.scatter_nd(some[:, None], ones, [self.classes])
            return tf.io.read_file(tf.gather(files, number)), label

        return read

    def all_labels(self) -> np.ndarray:
        raise DataError(
            "class_weights, sampling: are for one label an image, and the data has "
            "several; leave them out"
        )


@dataclass(frozen=True, eq=False)
class Arrays(Split):
    """A split of images and labels in memory."""

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

    def all_labels(self) -> np.ndarray:
        return self.labels

    def take(self, numbers: np.ndarray) -> Arrays:
        return Arrays(self.images[numbers], self.labels[numbers])

    def identity(self) -> list:
        contents = (self.images.tobytes(), self.labels.tobytes())
        return [hashlib.sha256(content).hexdigest() for content in contents]


def hash_json(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
