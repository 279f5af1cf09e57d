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
_COLUMNS = 8  # of a grid


def confusion_map(metrics: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes a PNG of the confusion matrix, in shares of each true class.

    Nothing is written if the metrics have no matrix, because of too many classes.
    """
    if "confusion" not in metrics:
        return
    from matplotlib.figure import Figure

    counts = np.asarray(metrics["confusion"])
    # in counts, classes with few images would be pale
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 4 + 0.25 * min(len(counts), _NAMED)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, "Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(counts) <= _NAMED:
        places, names = range(len(counts)), list(map(drawable, metrics["per_class"]))
        # dollar signs in a name make no formula
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
    """Writes a PNG of images with prediction and label, the least certain first."""
    from matplotlib.figure import Figure

    source = open_source(data)
    names = source.class_names
    least: list[tuple] = []  # (image, true class, probabilities)
    for images, labels in eval_batches(source, model.info.protocol, split, 64):
        probabilities = predict_probabilities(model, images.numpy(), 64)
        copies = map(np.copy, images.numpy())
        least += zip(copies, labels.numpy().argmax(1), probabilities)
        # no more than are shown, as a validation set may not fit in memory
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
