"""Metrics of predictions: top-1, top-5, loss, calibration error and confusion."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BINS = 15  # of confidence (arXiv 1706.04599 section 5)
_LARGEST = 1000  # the most classes for which the confusion matrix is returned
_WORST = 100  # the number of confused pairs of classes that are listed
# {key of the metrics of any task: (label, format)}
_LABELS = {
    "top1": ("top-1", ".2%"),
    "top5": ("top-5", ".2%"),
    "loss": ("loss, nats", ".4f"),
    "calibration_error": ("calibration error", ".2%"),
    "balanced_accuracy": ("balanced accuracy", ".2%"),
    "macro_f1": ("macro F1", ".2%"),
    "map": ("mAP, IoU 0.5 to 0.95", ".2%"),
    "map50": ("mAP, IoU 0.5", ".2%"),
    "map75": ("mAP, IoU 0.75", ".2%"),
    "map_small": ("mAP of small boxes, to 32 x 32", ".2%"),
    "map_medium": ("mAP of medium boxes, to 96 x 96", ".2%"),
    "map_large": ("mAP of large boxes", ".2%"),
    "mean_iou": ("mean IoU", ".2%"),
    "pixel_accuracy": ("pixel accuracy", ".2%"),
}


class Tally:
    """Accumulates metrics over batches.

    Memory grows with the number of different (true, predicted) pairs.

    Args:
        classes: the number of classes.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.confusion = Counter[tuple[int, int]]()  # by (true, predicted)
        self.hits5, self.loss = 0, 0.0
        self.hits = np.zeros(BINS, np.int64)  # correct predictions by bin
        self.confidence = np.zeros(BINS)  # sum by bin

    def add(self, probabilities: np.ndarray, truth: np.ndarray) -> None:
        """Adds a batch.

        Args:
            probabilities: finite floats [N, K].
            truth: the true classes, integers [N].
        """
        rows = np.arange(len(truth))
        true = probabilities[rows, truth]
        # classes that rank above the true class; in a tie, the first class ranks higher
        better = (probabilities > true[:, None]).sum(1)
        ties_before = (
            (probabilities == true[:, None])
            & (np.arange(probabilities.shape[1]) < truth[:, None])
        ).sum(1)
        self.hits5 += int((better + ties_before < 5).sum())
        self.loss -= float(np.log(np.maximum(true.astype(np.float64), 1e-45)).sum())
        predicted = probabilities.argmax(1)  # in a tie, the first class
        self.confusion.update(zip(truth.tolist(), predicted.tolist()))
        confidence = probabilities[rows, predicted]
        bins = bins_of(confidence)
        self.hits += np.bincount(bins[predicted == truth], minlength=BINS)
        self.confidence += np.bincount(bins, confidence, BINS)

    def result(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Returns the metrics of all batches, as `evaluate.run` does."""
        totals, claims, hits = np.zeros((3, self.classes), np.int64)
        for (true, predicted), count in self.confusion.items():
            totals[true] += count
            claims[predicted] += count
            hits[true] += count if true == predicted else 0
        present = totals + claims > 0
        names, examples = _distinct(class_names), int(totals.sum())
        return {
            "top1": int(hits.sum()) / examples,
            "top5": self.hits5 / examples,
            "loss": self.loss / examples,
            "calibration_error": float(
                # equation 3: each bin's share times |mean accuracy - mean confidence|
                np.abs(self.hits - self.confidence).sum() / examples
            ),
            "balanced_accuracy": float(np.mean(hits[totals > 0] / totals[totals > 0])),
            "macro_f1": float(np.mean(2 * hits[present] / (totals + claims)[present])),
            "examples": examples,
            "per_class": _shares(names, hits, totals),
            "precision": _shares(names, hits, claims),
            "confused": self._confused(names, totals),
            **({"confusion": self._matrix()} if self.classes <= _LARGEST else {}),
        }

    def _confused(self, names: list[str], totals: np.ndarray) -> list[dict[str, Any]]:
        """Returns the pairs of classes most often confused, the worst first."""
        pairs = [(count, *pair) for pair, count in self.confusion.items()]
        wrong = [pair for pair in pairs if pair[1] != pair[2]]
        wrong.sort(key=lambda pair: (-pair[0], pair[1:]))
        return [
            {
                "true": names[true],
                "predicted": names[predicted],
                "count": count,
                "share": count / int(totals[true]),
            }
            for count, true, predicted in wrong[:_WORST]
        ]

    def _matrix(self) -> list[list[int]]:
        counts = np.zeros((self.classes, self.classes), np.int64)
        for pair, count in self.confusion.items():
            counts[pair] = count
        return counts.tolist()


def _shares(
    names: Sequence[str], parts: np.ndarray, wholes: np.ndarray
) -> dict[str, float | None]:
    """{name: part / whole}, None for a whole of 0."""
    return {
        name: int(part) / int(whole) if whole else None
        for name, part, whole in zip(names, parts, wholes)
    }


def bins_of(confidence: np.ndarray) -> np.ndarray:
    """The bin, 0 to BINS - 1, of each confidence; a border belongs to the lower bin."""
    # compared in the type of the probabilities, as 0.2 in float32 is not 3 / 15 in
    # float64
    borders = (np.arange(1, BINS) / BINS).astype(confidence.dtype)
    return np.searchsorted(borders, confidence)


def labelled(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """[(label, value as text)] of the single figures that `evaluate.run` returned."""
    return [
        (label, "-" if metrics[name] is None else format(metrics[name], form))
        for name, (label, form) in _LABELS.items()
        if name in metrics
    ]


def worst_classes(
    metrics: Mapping[str, Any], count: int = 5
) -> list[tuple[str, float]]:
    """Returns (name, top-1) of the classes with the lowest top-1, the worst first."""
    pairs = [pair for pair in metrics["per_class"].items() if pair[1] is not None]
    return sorted(pairs, key=lambda pair: pair[1])[:count]


def to_json(value: Any, indent: str = "\n") -> str:
    """Returns JSON text as json.dumps(value, indent=1) does, but for lists of scalars.

    Each of them is on one line, so that a confusion matrix takes a line for each row.
    """
    inner = indent + " "
    if isinstance(value, dict) and value:
        entries = [f"{json.dumps(k)}: {to_json(v, inner)}" for k, v in value.items()]
        return "{" + inner + ("," + inner).join(entries) + indent + "}"
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        entries = [to_json(entry, inner) for entry in value]
        return "[" + inner + ("," + inner).join(entries) + indent + "]"
    return json.dumps(value)


def _distinct(names: Sequence[str]) -> list[str]:
    """Returns the names, with a number appended to those that occur more than once.

    Some class names of ImageNet do.
    """
    counts = Counter(names)
    return [
        name if counts[name] == 1 else f"{name} ({number})"
        for number, name in enumerate(names)
    ]
