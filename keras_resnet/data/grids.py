"""A picture of the pictures: what training and evaluation will see."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from keras_resnet.data.batches import eval_batches, train_batches
from keras_resnet.data.sources import open_source
from keras_resnet.drawing import png

_COLUMNS, _ROWS = 8, 3  # of each part


def preview(source, recipe, path) -> dict[str, int]:
    """Writes a PNG: the first pictures of training, and some of evaluation, as fed.

    Args:
        source: what `open_source` takes.
        recipe: a Recipe; a batch larger than the data is cut to them.
        path: of the PNG.

    Returns:
        {"train": pictures shown, "val": pictures shown}; a split that the source lacks
        is left out.
    """
    from matplotlib.figure import Figure

    source = open_source(source)
    shown = {}
    for name, split in source.splits.items():
        count = min(_COLUMNS * _ROWS, split.size)
        if name == "train":
            size = min(recipe.batch_size, split.size)
            batches = train_batches(
                source, recipe.replace(batch_size=size, accumulate=1)
            )
        else:  # of all classes, where the split's order is by class
            some = split.take(np.linspace(0, split.size - 1, count).astype(int))
            few = dataclasses.replace(source, val=some)
            batches = eval_batches(few, recipe, name, min(recipe.batch_size, count))
        shown[name] = _first(batches, count)
    figure = Figure(
        figsize=(1.6 * _COLUMNS, 1.85 * _ROWS * len(shown)), layout="constrained"
    )
    parts = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, (name, pairs) in zip(parts, shown.items()):
        part.suptitle(f"{name}: {recipe.name}, {source.path}")
        for place, (image, label) in enumerate(pairs, start=1):
            axes = part.add_subplot(_ROWS, _COLUMNS, place)
            axes.imshow(image.astype(np.uint8), interpolation="nearest")
            axes.set_axis_off()
            axes.set_title(_say(label, source.class_names), fontsize=8)
    Path(path).write_bytes(png(figure))
    return {name: len(pairs) for name, pairs in shown.items()}


def _first(batches, count):
    """The first (image, label) pairs, copied out of their batches."""
    pairs: list[tuple] = []
    for images, labels in batches.as_numpy_iterator():
        pairs += zip(images, labels)
        if len(pairs) >= count:
            break
    return pairs[:count]


def _say(label, names):
    """The class, or the two classes of a mixed picture with their shares."""
    order = [i for i in np.argsort(-label, kind="stable")[:2] if label[i] > 0.005]
    if len(order) == 1:
        return names[order[0]]
    return " + ".join(f"{label[i]:.0%} {names[i]}" for i in order)
