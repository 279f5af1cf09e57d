"""What detectors and segmenters say of images, in the images' own pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data.batches import PARALLEL
from keras_resnet.data.splits import Split
from keras_resnet.data.transforms.letterbox import load_square

Answer = dict[str, np.ndarray]  # boxes, labels, confidence; or mask


def answer(
    model: Any, squares: np.ndarray, inner: np.ndarray, sizes: np.ndarray, batch: int
) -> list[Answer]:
    """What a model says of images.

    Args:
        model: a Detector or Segmenter, or an exported one.
        squares: uint8 [N, S, S, 3].
        inner: [N, 2], the heights and widths of the images within.
        sizes: [N, 2], the heights and widths of the images.
        batch: of the model's input; fewer images are filled up, so that it is compiled
            once.

    Returns:
        For each image {"boxes": float64 [n, 4], (left, top, right, bottom) in its
        pixels, "labels": int64 [n], "confidence": float64 [n]}, the most confident
        first; or {"mask": uint8 [H, W], a class for each pixel}.
    """
    count = len(squares)
    filled = np.zeros((batch, *squares.shape[1:]), np.uint8)
    filled[:count] = squares
    outputs = model.predict_on_batch(filled)
    if model.info.task == "segment":
        return [
            {"mask": to_mask(logits, *both)}
            for logits, *both in zip(outputs[:count], inner, sizes)
        ]
    return [
        _boxes({name: values[n] for name, values in outputs.items()}, *both)
        for n, both in enumerate(zip(inner, sizes))
    ]


def to_mask(logits: Any, inner: Any, size: Any) -> np.ndarray:
    """The likeliest class of each pixel: [S, S, K] -> uint8 [H, W]."""
    shown = np.asarray(logits, np.float32)[: inner[0], : inner[1]]
    full = tf.image.resize(shown, size, "bilinear")
    return tf.cast(tf.argmax(full, -1), tf.uint8).numpy()


def _boxes(found: dict[str, Any], inner: Any, size: Any) -> Answer:
    confidence = np.asarray(found["confidence"], np.float64)
    kept = np.flatnonzero(np.asarray(found["labels"]) >= 0)
    kept = kept[np.argsort(-confidence[kept], kind="stable")]
    ratio = np.asarray(size, np.float64) / inner
    boxes = np.asarray(found["boxes"], np.float64)[kept] * ratio[[1, 0, 1, 0]]
    limits = np.asarray(size, np.float64)[[1, 0, 1, 0]]
    return {
        "boxes": np.clip(boxes, 0, limits),
        "labels": np.asarray(found["labels"])[kept].astype(np.int64),
        "confidence": confidence[kept],
    }


def answers(
    model: Any,
    split: Split,
    batch_size: int,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Iterator[Answer]:
    """Yields what a model says of each image of a split, in order."""
    protocol = model.info.protocol
    batches = (
        split.ordered()
        .map(lambda data, _: load_square(data, protocol), PARALLEL)
        .batch(batch_size)
        .prefetch(2)
    )
    for batch in progress(batches):
        squares, inner, sizes = (part.numpy() for part in batch)
        yield from answer(model, squares, inner, sizes, batch_size)
