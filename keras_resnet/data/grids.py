"""`preview`: a figure of the images that training and evaluation will use."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data.annotated.marking import mark
from keras_resnet.data.batches import eval_batches, train_batches
from keras_resnet.data.sources import SourceLike, open_source
from keras_resnet.drawing import png

_COLUMNS, _ROWS = 8, 3  # of images, for each split


def preview(
    source: SourceLike, recipe: Any, path: str | os.PathLike[str]
) -> dict[str, int]:
    """Writes a PNG that shows the model's inputs, the first 24 of each split at most.

    Boxes and masks are drawn on them. The training images are those of the first
    batches. The validation images are spread over the split.

    Args:
        source: what `open_source` takes.
        recipe: a Recipe; its batch size may exceed the size of the data set.
        path: the PNG file.

    Returns:
        {"train": images shown, "val": images shown}, for the splits of the source.
    """
    from matplotlib.figure import Figure

    source = open_source(source, task=recipe.task)
    shown = {}
    for name, split in source.splits.items():
        count = min(_COLUMNS * _ROWS, split.size)
        if name == "train":
            size = min(recipe.batch_size, split.size)
            batches = train_batches(
                source, recipe.replace(batch_size=size, accumulate=1)
            )
        else:  # spread over the split, which may be sorted by class
            spread = split.take(np.linspace(0, split.size - 1, count).astype(int))
            sample = dataclasses.replace(source, val=spread)
            batches = eval_batches(sample, recipe, name, min(recipe.batch_size, count))
        shown[name] = _first(batches, count)
    figure = Figure(
        figsize=(1.6 * _COLUMNS, 1.85 * _ROWS * len(shown)), layout="constrained"
    )
    parts = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, (name, pairs) in zip(parts, shown.items()):
        part.suptitle(f"{name}: {recipe.name}, {source.path}")
        for place, (image, label) in enumerate(pairs, start=1):
            axes = part.add_subplot(_ROWS, _COLUMNS, place)
            image = image.astype(np.uint8)
            if source.task == "classify":
                axes.set_title(_caption(label, source.class_names), fontsize=8)
            else:
                target = {"mask": label} if source.task == "segment" else label
                image = mark(image, target, source.class_names)
            axes.imshow(image, interpolation="nearest")
            axes.set_axis_off()
    Path(path).write_bytes(png(figure))
    return {name: len(pairs) for name, pairs in shown.items()}


def _first(batches: tf.data.Dataset, count: int) -> list[tuple[np.ndarray, Any]]:
    pairs: list[tuple[np.ndarray, Any]] = []
    for images, labels in batches.as_numpy_iterator():
        if isinstance(labels, dict):  # boxes, of all images
            labels = [dict(zip(labels, values)) for values in zip(*labels.values())]
        pairs += zip(images, labels)
        if len(pairs) >= count:
            break
    return pairs[:count]


def _caption(label: np.ndarray, names: Sequence[str]) -> str:
    """The class of an image, or the two classes of a mixed image with their shares."""
    order = [i for i in np.argsort(-label, kind="stable")[:2] if label[i] > 0.005]
    if len(order) == 1:
        return names[order[0]]
    return " + ".join(f"{label[i]:.0%} {names[i]}" for i in order)
