"""Splits of pictures with boxes, and of pictures with masks."""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data.annotated.listing import fault
from keras_resnet.data.annotated.pixels import decode_mask
from keras_resnet.data.folders import map_files
from keras_resnet.data.splits import Reader, Split


@dataclass(frozen=True, eq=False)
class Boxed(Split):
    """A split of image files with any number of boxes in each."""

    files: tuple[str, ...]
    offsets: np.ndarray  # int64 [size + 1]; image n has the boxes offsets[n : n + 2]
    boxes: np.ndarray  # float32 [all, 4]: left, top, right, bottom in pixels
    labels: np.ndarray  # int64 [all], class numbers from 0
    crowd: np.ndarray  # bool [all]: not trained on, and ignored in the evaluation
    ids: tuple[int, ...]  # of the images in COCO; else 1, 2, ...
    most: int  # the rows that `reader` returns for each image
    areas: np.ndarray  # float64 [all]: of the objects, by which COCO tells their sizes

    @property
    def size(self) -> int:
        return len(self.files)

    def reader(self) -> Reader:
        """Returns a function number -> (content of the file, boxes and labels).

        The latter are {"boxes": float32 [most, 4], "labels": float32 [most]}, without
        the crowd regions. They are filled up with boxes of zeros and labels of -1.
        """
        files = tf.constant([os.fsencode(file) for file in self.files])
        single = ~self.crowd
        before = np.concatenate([[0], np.cumsum(single)])
        offsets = tf.constant(before[self.offsets], tf.int64)
        boxes = tf.constant(self.boxes[single], tf.float32)
        labels = tf.constant(self.labels[single], tf.float32)

        def read(number: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            start, end = tf.unstack(tf.gather(offsets, tf.stack([number, number + 1])))
            rest = self.most - (end - start)
            rows = tf.pad(boxes[start:end], [[0, rest], [0, 0]])
            classes = tf.pad(labels[start:end], [[0, rest]], constant_values=-1.0)
            target = {
                "boxes": tf.ensure_shape(rows, [self.most, 4]),
                "labels": tf.ensure_shape(classes, [self.most]),
            }
            return tf.io.read_file(tf.gather(files, number)), target

        return read

    def truth(self, number: int) -> dict[str, np.ndarray]:
        """All boxes of an image.

        Returns:
            {"boxes": float64 [n, 4], "labels": int64 [n], "crowd": bool [n], "area":
            float64 [n]}
        """
        rows = slice(*self.offsets[number : number + 2])
        return {
            "boxes": self.boxes[rows].astype(np.float64),
            "labels": self.labels[rows].copy(),
            "crowd": self.crowd[rows].copy(),
            "area": self.areas[rows].copy(),
        }

    def where(self, number: int) -> str:
        return self.files[number]

    def take(self, numbers: np.ndarray) -> Boxed:
        numbers = np.asarray(numbers, np.int64)
        counts = np.diff(self.offsets)[numbers]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        moved = np.repeat(self.offsets[numbers] - offsets[:-1], counts)
        rows = np.arange(offsets[-1]) + moved
        return Boxed(
            tuple(self.files[i] for i in numbers),
            offsets,
            self.boxes[rows],
            self.labels[rows],
            self.crowd[rows],
            tuple(self.ids[i] for i in numbers),
            self.most,
            self.areas[rows],
        )

    def identity(self) -> list:
        arrays = (self.offsets, self.boxes, self.labels, self.crowd, self.areas)
        hashes = [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
        return [_names(self.files), *hashes]


@dataclass(frozen=True, eq=False)
class Masked(Split):
    """A split of image files with a mask of class numbers each."""

    files: tuple[str, ...]
    masks: tuple[str, ...]  # PNG files; 255 is a pixel without a label
    classes: int

    @property
    def size(self) -> int:
        return len(self.files)

    def reader(self) -> Reader:
        """Returns a function number -> (content of the file, uint8 [H, W, 1] mask)."""
        files = tf.constant([os.fsencode(file) for file in self.files])
        masks = tf.constant([os.fsencode(mask) for mask in self.masks])
        # tf.io.decode_png would give the colors of the palette
        decode = functools.partial(decode_mask, classes=self.classes)

        def read(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            file = tf.gather(masks, number)
            mask = tf.numpy_function(decode, [file], tf.uint8, stateful=False)
            mask = tf.ensure_shape(mask, [None, None])[..., tf.newaxis]
            return tf.io.read_file(tf.gather(files, number)), mask

        return read

    def truth(self, number: int) -> np.ndarray:
        """The mask of an image, uint8 [H, W].

        Raises:
            ValueError: the mask cannot be decoded, or has a number without a class.
        """
        return decode_mask(self.masks[number], self.classes)

    def where(self, number: int) -> str:
        return self.files[number]

    def take(self, numbers: np.ndarray) -> Masked:
        return Masked(
            tuple(self.files[i] for i in numbers),
            tuple(self.masks[i] for i in numbers),
            self.classes,
        )

    def identity(self) -> list[Any]:
        # the masks are the labels: their contents count, not only their names
        contents = hashlib.sha256("".join(map_files(_hash, self.masks)).encode())
        return [_names(self.files), contents.hexdigest(), self.classes]


def _names(files: tuple[str, ...]) -> list[str]:
    return [file.rpartition(os.sep)[2] for file in files]


def _hash(file: str) -> str:
    try:
        with open(file, "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except OSError as error:
        raise fault(file, f"cannot be read ({error.strerror})", "restore it") from error
