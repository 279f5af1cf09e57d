"""Metrics of predictions: top-1, top-5, loss, calibration error and confusion."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

BINS = 15  # of confidence (arXiv 1706.04599 section 5)
_LARGEST = 1000  # the most classes for which the confusion matrix is returned
_WORST = 100  # the number of confused pairs of classes that are listed
_SCORES = 2**26  # the most probabilities that are kept for the average precision
# {key of the metrics of any task: (label, format)}
_LABELS = {
    "top1": ("top-1", ".2%"),
    "top5": ("top-5", ".2%"),
    "loss": ("loss, nats", ".4f"),
    "calibration_error": ("calibration error", ".2%"),
    "balanced_accuracy": ("balanced accuracy", ".2%"),
    "macro_f1": ("macro F1", ".2%"),
    "micro_f1": ("micro F1", ".2%"),
    "mean_average_precision": ("mean average precision", ".2%"),
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

    Memory grows with the number of different (true, predicted) pairs, and by up to
    256 MiB of probabilities.

    Args:
        classes: the number of classes.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.confusion = Counter[tuple[int, int]]()  # by (true, predicted)
        self.hits5, self.loss = 0, 0.0
        self.hits = np.zeros(BINS, np.int64)  # correct predictions by bin
        self.confidence = np.zeros(BINS)  # sum by bin
        # all probabilities and true classes; None if they are too many
        self.scores: list[tuple[np.ndarray, np.ndarray]] | None = []
        self.kept = 0  # probabilities in `scores`

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
        if self.scores is not None:
            self.scores.append((probabilities, truth))
            self.kept += probabilities.size
            if self.kept > _SCORES:
                self.scores = None

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
            **self._average_precision(names),
            "confused": self._confused(names, totals),
            **({"confusion": self._matrix()} if self.classes <= _LARGEST else {}),
        }

    def _average_precision(self, names: list[str]) -> dict[str, Any]:
        """The average precision of each class against all others, and their mean."""
        if self.scores is None:
            return {}
        scores = np.concatenate([scores for scores, _ in self.scores])
        truth = np.concatenate([truth for _, truth in self.scores])
        values = [
            average_precision(scores[:, number], truth == number)
            for number in range(self.classes)
        ]
        return {
            "mean_average_precision": _mean(values),
            "average_precision": dict(zip(names, values)),
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


class TagTally:
    """Accumulates metrics over batches of images with several labels.

    It keeps all probabilities.

    Args:
        thresholds: for each class, the probability from which on an image has it.
    """

    def __init__(self, thresholds: Sequence[float]) -> None:
        self.thresholds = np.array(thresholds)
        self.batches: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, probabilities: np.ndarray, truth: np.ndarray) -> None:
        """Adds a batch.

        Args:
            probabilities: finite floats [N, K].
            truth: booleans [N, K], whether an image has a class.
        """
        self.batches.append((np.asarray(probabilities, np.float32), truth))

    def result(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Returns the metrics of all batches, as `evaluate.run` does."""
        p, truth = (np.concatenate(parts) for parts in zip(*self.batches))
        names = _distinct(class_names)
        said = p >= self.thresholds.astype(p.dtype)
        hits, totals, claims = (it.sum(0) for it in (said & truth, truth, said))
        order = np.argsort(-p, axis=1, kind="stable")
        ranked = np.take_along_axis(truth, order, 1)
        f1 = _shares(names, 2 * hits, totals + claims)
        values = [average_precision(*pair) for pair in zip(p.T, truth.T)]
        exact = np.clip(p.astype(np.float64), 1e-12, 1 - 1e-12)
        bins = bins_of(p.ravel())
        gaps = np.bincount(bins, (truth - p.astype(np.float64)).ravel(), BINS)
        either = max(int((totals + claims).sum()), 1)
        return {
            "top1": float(ranked[:, 0].mean()),
            "top5": float(ranked[:, :5].any(1).mean()),
            "loss": float(-np.log(np.where(truth, exact, 1 - exact)).mean()),
            "calibration_error": float(np.abs(gaps).sum() / p.size),
            "mean_average_precision": _mean(values),
            "macro_f1": _mean(f1.values()),
            "micro_f1": 2 * int(hits.sum()) / either,
            "examples": len(p),
            "per_class": _shares(names, hits, totals),
            "precision": _shares(names, hits, claims),
            "f1": f1,
            "average_precision": dict(zip(names, values)),
            "thresholds": dict(zip(names, self.thresholds.tolist())),
        }


def _mean(values: Iterable[float | None]) -> float:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else 0.0


def average_precision(scores: np.ndarray, is_true: np.ndarray) -> float | None:
    """Returns the mean precision over the ranks at which the recall rises.

    It is that of scikit-learn: the sum over distinct scores of the rise of the recall
    times the precision, without interpolation.

    Args:
        scores: floats [N].
        is_true: booleans [N], whether an image is of the class.

    Returns:
        A number in [0, 1], or None if no image is of the class.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(is_true[order])
    if not len(hits) or not hits[-1]:
        return None
    last = np.append(np.diff(scores[order]) != 0, True)  # of those of equal score
    ranks, hits = np.flatnonzero(last) + 1, hits[last]
    return float((np.diff(hits, prepend=0) * (hits / ranks)).sum() / hits[-1])


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
