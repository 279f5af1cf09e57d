"""Probabilities and truths -> top-1, top-5, loss, calibration error and confusion."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np

from keras_resnet.drawing import drawable

BINS = 15  # of confidence (1706.04599 section 5)
_NAMED = 30  # classes whose names fit beside a confusion matrix
_LARGEST = 1000  # classes of a confusion matrix that somebody can look at
_WORST = 100  # pairs of classes that are listed


class Tally:
    """What batches add up to, in memory for the pairs of classes that there were.

    Args:
        classes: K.
    """

    def __init__(self, classes: int):
        self.classes = classes
        self.confusion = Counter[tuple[int, int]]()  # of (true, predicted)
        self.hits5, self.loss = 0, 0.0
        self.right = np.zeros(BINS, np.int64)  # pictures, by confidence
        self.confidence = np.zeros(BINS)  # its sum

    def add(self, probabilities, truth):
        """Counts a batch: finite floats [N, K], and the right classes, int [N]."""
        rows = np.arange(len(truth))
        right = probabilities[rows, truth]
        # places above the right class; of a tie, what comes first is above
        better = (probabilities > right[:, None]).sum(1)
        ties_before = (
            (probabilities == right[:, None])
            & (np.arange(probabilities.shape[1]) < truth[:, None])
        ).sum(1)
        self.hits5 += int((better + ties_before < 5).sum())
        self.loss -= float(np.log(np.maximum(right.astype(np.float64), 1e-45)).sum())
        said = probabilities.argmax(1)  # of a tie, the first too
        self.confusion.update(zip(truth.tolist(), said.tolist()))
        confidence = probabilities[rows, said]
        # rounded as the probabilities are: five equal ones of float32 are on a border
        borders = (np.arange(1, BINS) / BINS).astype(confidence.dtype)
        bins = np.searchsorted(borders, confidence)  # which belongs to the bin below
        self.right += np.bincount(bins[said == truth], minlength=BINS)
        self.confidence += np.bincount(bins, confidence, BINS)

    def result(self, class_names: Sequence[str]) -> dict:
        """The measures of all that was added, as `evaluate.run` returns them."""
        pictures, hits = np.zeros((2, self.classes), np.int64)
        for (true, predicted), count in self.confusion.items():
            pictures[true] += count
            hits[true] += count if true == predicted else 0
        names, examples = _distinct(class_names), int(pictures.sum())
        return {
            "top1": int(hits.sum()) / examples,
            "top5": self.hits5 / examples,
            "loss": self.loss / examples,
            "calibration_error": float(
                # equation 3: a bin's share times the gap of its means
                np.abs(self.right - self.confidence).sum() / examples
            ),
            "examples": examples,
            "per_class": {
                name: int(hit) / int(count) if count else None
                for name, hit, count in zip(names, hits, pictures)
            },
            "confused": self._confused(names, pictures),
            **({"confusion": self._matrix()} if self.classes <= _LARGEST else {}),
        }

    def _confused(self, names, pictures):
        """The pairs of classes that are mistaken most often, the worst first."""
        pairs = [(count, *pair) for pair, count in self.confusion.items()]
        wrong = [pair for pair in pairs if pair[1] != pair[2]]
        wrong.sort(key=lambda pair: (-pair[0], pair[1:]))
        return [
            {
                "true": names[true],
                "predicted": names[predicted],
                "count": count,
                "share": count / int(pictures[true]),
            }
            for count, true, predicted in wrong[:_WORST]
        ]

    def _matrix(self):
        counts = np.zeros((self.classes, self.classes), np.int64)
        for pair, count in self.confusion.items():
            counts[pair] = count
        return counts.tolist()


def worst_classes(metrics: dict, count: int = 5) -> list[tuple[str, float]]:
    """(name, accuracy) of the classes that are recognised least, the worst first."""
    seen = [pair for pair in metrics["per_class"].items() if pair[1] is not None]
    return sorted(seen, key=lambda pair: pair[1])[:count]


def to_json(value, indent: str = "\n") -> str:
    """As json.dumps(value, indent=1), but a list of plain values is one line.

    A thousand rows of a confusion matrix are a thousand lines, and not a million.
    """
    inner = indent + " "
    if isinstance(value, dict) and value:
        entries = [f"{json.dumps(k)}: {to_json(v, inner)}" for k, v in value.items()]
        return "{" + inner + ("," + inner).join(entries) + indent + "}"
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        entries = [to_json(entry, inner) for entry in value]
        return "[" + inner + ("," + inner).join(entries) + indent + "]"
    return json.dumps(value)


def confusion_map(metrics: dict, path) -> None:
    """Writes a PNG: what share of each true class is taken for which class.

    Not of more classes than have a matrix in the measures: nobody could see one.
    """
    if "confusion" not in metrics:
        return
    from matplotlib.figure import Figure

    counts = np.asarray(metrics["confusion"])
    # of a class: else the classes with few pictures are all pale
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 4 + 0.25 * min(len(counts), _NAMED)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, "Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(counts) <= _NAMED:
        places, names = range(len(counts)), list(map(drawable, metrics["per_class"]))
        # a name is no formula, whatever dollars are in it
        axes.set_xticks(places, names, rotation=90, parse_math=False)
        axes.set_yticks(places, names, parse_math=False)
    figure.colorbar(image, label="share of the class")
    figure.savefig(path, dpi=110)


def _distinct(names):
    """The names, with its number behind one that several classes have (ImageNet's)."""
    counts = Counter(names)
    return [
        name if counts[name] == 1 else f"{name} ({number})"
        for number, name in enumerate(names)
    ]
