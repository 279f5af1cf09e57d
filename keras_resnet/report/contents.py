"""What the files of a data set are: sizes, formats, and copies across its splits."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_resnet.data import Source, Split, blame_pictures
from keras_resnet.data.transforms.decode import LONGEST_MAGIC, picture_size, sniff

Progress = Callable[[Iterable], Iterable]


class Copy(NamedTuple):
    """A validation image with the very bytes of a training image."""

    val: str  # where it is
    train: str  # where the first training image of these bytes is
    same_class: bool


@dataclass(frozen=True)
class Contents:
    """What `survey` finds in the files of a data set.

    Attributes:
        short_sides: int64 [N] of the validation images, in pixels.
        formats: of the validation images by their first bytes, such as "jpeg"; "" for
            arrays.
        train_counts: int64 [K], the training images of each class; None without any.
        copies: the validation images that are training images too.
    """

    short_sides: np.ndarray
    formats: list[str]
    train_counts: np.ndarray | None
    copies: list[Copy]


def survey(source: Source, progress: Progress = iter) -> Contents:
    """Reads every image of a classification data set once, without decoding it.

    Memory grows with the number of validation images, not with that of training images.

    Raises:
        DataError: an image cannot be read.
    """
    sides: list[int] = []
    formats: list[str] = []
    labels: list[int] = []
    numbers = defaultdict(list)  # validation images by their contents
    with blame_pictures(source, ("val",)):
        for row in progress(_described(source.split("val"))):
            size, kind, digest, label = (it.numpy() for it in row)
            numbers[digest].append(len(sides))
            sides.append(size.min())
            formats.append(kind.decode())
            labels.append(label)
    counts: np.ndarray | None = None
    copies: dict[int, Copy] = {}
    if source.train is not None and source.train is not source.val:
        counts = np.zeros(len(source.class_names), np.int64)
        with blame_pictures(source, ("train",)):
            for place, row in enumerate(progress(_described(source.train))):
                _, _, digest, label = (it.numpy() for it in row)
                counts[label] += 1
                for number in numbers.get(digest, ()):
                    both = where(source, "val", number), where(source, "train", place)
                    copy = Copy(*both, bool(labels[number] == label))
                    copies.setdefault(number, copy)
    found = [copies[number] for number in sorted(copies)]
    return Contents(np.array(sides, np.int64), formats, counts, found)


def where(source: Source, split: str, number: int) -> str:
    """The place of an image in its data set."""
    place = source.split(split).where(number)
    return place.removeprefix(source.path).lstrip("/\\")


def _described(split: Split) -> tf.data.Dataset:
    """(height and width, format, SHA-256, label) of each image, in order."""

    def describe(picture: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, ...]:
        kind, digest = tf.numpy_function(
            _digest, [picture], (tf.string, tf.string), stateful=False
        )
        return tf.stack(picture_size(picture)), kind, digest, label

    return split.ordered().map(describe, tf.data.AUTOTUNE)


def _digest(picture: Any) -> tuple[bytes, bytes]:
    """(format, SHA-256 in hexadecimal digits) of a file's bytes, or of pixels."""
    if isinstance(picture, bytes):
        kind = sniff(picture[:LONGEST_MAGIC]) or "other"
        return kind.encode(), hashlib.sha256(picture).hexdigest().encode()
    shape = np.array(picture.shape).tobytes()
    digest = hashlib.sha256(shape + picture.tobytes()).hexdigest()
    return b"", digest.encode()
