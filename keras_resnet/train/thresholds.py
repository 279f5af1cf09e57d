"""Chooses from which probability on an image has a class, for several labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_resnet import data as pictures
from keras_resnet.data.splits import Source

_BATCH = 64
_LEAST = 1e-12  # a threshold is above 0


def choose_thresholds(model: Any, source: Source) -> tuple[float, ...]:
    """The threshold of each class with the largest F1 on the validation images.

    Args:
        model: a model of this package that gives probabilities of several labels.
        source: the data, with the split "val".

    Returns:
        A number in (0, 1] for each class: the middle between the two probabilities that
        it separates; 0.5 for a class that no validation image has.
    """
    rows, truth = [], []
    for images, labels in pictures.eval_batches(
        source, model.info.protocol, "val", _BATCH
    ):
        rows.append(np.asarray(model.predict_on_batch(images.numpy()), np.float64))
        truth.append(labels.numpy() > 0)
    probabilities, labels = np.concatenate(rows), np.concatenate(truth)
    return tuple(map(best_threshold, probabilities.T, labels.T))


def best_threshold(probabilities: np.ndarray, is_true: np.ndarray) -> float:
    """The threshold with the largest F1; of several, the highest.

    Args:
        probabilities: [N], in [0, 1].
        is_true: booleans [N], whether an image has the class.
    """
    if not is_true.any():
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    hits = np.cumsum(is_true[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + is_true.sum())
    separates = np.append(ranked[:-1] > ranked[1:], True)  # no equal ones
    last = int(np.argmax(np.where(separates, f1, -1)))
    below = ranked[last + 1] if last + 1 < len(ranked) else 0.0
    return float(max((ranked[last] + below) / 2, _LEAST))
