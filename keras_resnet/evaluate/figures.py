"""Figures of an evaluation: the confusion matrix, and the least certain images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.data import eval_batches, open_source
from keras_resnet.data.sources import SourceLike
from keras_resnet.drawing import drawable, png
from keras_resnet.evaluate.views import predict_probabilities

_NAMED = 30  # classes whose names fit beside a confusion matrix
_COLUMNS = 8  # of a grid of images


def confusion_map(metrics: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes a PNG of the confusion matrix, as shares of each true class.

    Writes nothing if `metrics` has no confusion matrix, because of too many classes.

    Args:
        metrics: what `evaluate.run` returned.
        path: the file to write.
    """
    if "confusion" not in metrics:
        return
    from matplotlib.figure import Figure

    counts = np.asarray(metrics["confusion"])
    # counts would leave the rows of classes with few images pale
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 4 + 0.25 * min(len(counts), _NAMED)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, "Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(counts) <= _NAMED:
        places, names = range(len(counts)), list(map(drawable, metrics["per_class"]))
        # without parse_math=False, dollar signs in a name would start a formula
        axes.set_xticks(places, names, rotation=90, parse_math=False)
        axes.set_yticks(places, names, parse_math=False)
    figure.colorbar(image, label="share of the class")
    Path(path).write_bytes(png(figure))


def picture_grid(
    model: Any,
    data: SourceLike,
    path: str | os.PathLike[str],
    count: int = 24,
    split: str = "val",
) -> None:
    """Writes a PNG of the images that a model classifies with the least certainty.

    Each has the predicted class, and the true class if it differs. The image with the
    lowest probability of its true class is first.

    Args:
        model: a classifier with an evaluation protocol.
        data: what `data.open_source` takes.
        path: the file to write.
        count: the number of images to show.
        split: "val" or "train".
    """
    from matplotlib.figure import Figure

    source = open_source(data)
    names = source.class_names
    least: list[tuple] = []  # (image, index of the true class, probabilities)
    for images, labels in eval_batches(source, model.info.protocol, split, 64):
        probabilities = predict_probabilities(model, images.numpy(), 64)
        copies = map(np.copy, images.numpy())
        least += zip(copies, labels.numpy().argmax(1), probabilities)
        # keeps only those that are shown, as the whole split may not fit in memory
        least = sorted(least, key=lambda row: row[2][row[1]])[:count]
    rows = -(-count // _COLUMNS)
    figure = Figure(figsize=(12, 1.9 * rows), layout="constrained")
    for place, (image, truth, probabilities) in enumerate(least, start=1):
        guess = int(probabilities.argmax())
        axes = figure.add_subplot(rows, _COLUMNS, place)
        axes.imshow(image, interpolation="nearest")
        axes.set_axis_off()
        title = f"{names[guess]} {probabilities[guess]:.0%}"
        axes.set_title(
            title if guess == truth else f"{title}\nis {names[truth]}",
            color="black" if guess == truth else "crimson",
            fontsize=9,
        )
    figure.suptitle(f"{source.path}: the {len(least)} least certain of {split}")
    Path(path).write_bytes(png(figure))
