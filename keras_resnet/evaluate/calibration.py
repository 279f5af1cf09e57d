"""Temperature scaling: a classifier's probabilities as sure as they are right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.data import blame_pictures, eval_batches, open_source
from keras_resnet.data.sources import SourceLike
from keras_resnet.errors import DataError, ModelError
from keras_resnet.evaluate.evaluation import check_classes
from keras_resnet.evaluate.measures import TagTally, Tally
from keras_resnet.evaluate.views import padded, sigmoid, to_probabilities
from keras_resnet.files import atomic_write, sha256, write_whole
from keras_resnet.model import rebuild
from keras_resnet.runs import layout

LIMITS = (0.05, 20.0)  # of a temperature
_STEPS = 40  # of bisection, each of which halves the interval
_BATCH = 64


def find_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T at which softmax(logits / T) has the least cross-entropy.

    arXiv 1706.04599 section 4.2; the cross-entropy is convex in 1 / T. For several
    labels it is the sigmoid, and the binary cross-entropy.

    Args:
        logits: [N, K].
        labels: the true classes, integers [N]; or booleans [N, K], for several labels.

    Returns:
        T in [0.05, 20]; an end where the classes are told apart perfectly, or not at
        all.
    """
    shifted = np.asarray(logits, np.float64)
    several = labels.ndim == 2
    if not several:
        shifted = shifted - shifted.max(1, keepdims=True)
        true = shifted[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        """Of the cross-entropy, by 1 / T."""
        if several:
            return float(np.mean(shifted * (sigmoid(inverse * shifted) - labels)))
        odds = np.exp(inverse * shifted)
        return float(np.mean((odds * shifted).sum(1) / odds.sum(1) - true))

    low, high = 1 / LIMITS[1], 1 / LIMITS[0]
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if slope(middle) <= 0:
            low = middle
        else:
            high = middle
    return 2 / (low + high)


def calibrate(
    model: Any,
    data: SourceLike,
    split: str = "val",
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[Any, dict[str, Any]]:
    """A copy of a classifier whose probabilities are calibrated on a split.

    The temperature divides the weights of the classifier, so that whatever evaluates,
    exports or serves the copy uses it. The likeliest class of an image stays the same.

    Args:
        model: an open classifier of this package or of a run, not an exported one.
        data: what `data.open_source` takes, with the model's classes; best of images
            that it was not trained on.
        split: "val" or "train".
        progress: a function that wraps the iteration over the batches.

    Returns:
        (the copy, {"temperature", "before": {"loss", "calibration_error"}, "after": the
        same, "examples"}); both are measured on this split, so that "after" is a little
        better than on others.

    Raises:
        ModelError: the model has no classifier, or other classes than the data.
        DataError: the data cannot be used.
    """
    source = open_source(data)
    model.info.check_classifies(model.name)
    check_classes(model, source)
    if not hasattr(model, "weights"):
        raise ModelError(
            f"{model.name}: is exported; calibrate the model, and export it again"
        )
    policy = model.info.dtype_policy
    net = rebuild(model, policy, classifier_activation=None)
    rows, labels = [], []
    with blame_pictures(source, (split,)):
        for images, targets in progress(
            eval_batches(source, model.info.protocol, split, _BATCH)
        ):
            outputs = net.predict_on_batch(padded(images.numpy(), _BATCH))
            rows.append(np.asarray(outputs, np.float32)[: len(images)])
            several, target = source.several_labels, targets.numpy()
            labels.append(target > 0 if several else target.argmax(1))
    logits, truth = np.concatenate(rows), np.concatenate(labels)
    if not np.isfinite(logits).all():
        raise DataError(f"{model.name}: its logits are not finite; check its weights")
    temperature = find_temperature(logits, truth)
    head = net.get_layer("head")
    head.set_weights([weight / temperature for weight in head.get_weights()])
    info = model.info
    calibrated = rebuild(net, policy, classifier_activation=info.probability)
    if info.several_labels:  # the same decisions
        before = np.array(info.thresholds)
        thresholds = sigmoid((np.log(before) - np.log1p(-before)) / temperature)
        calibrated.info = calibrated.info.replace(thresholds=tuple(thresholds.tolist()))
    report = {
        "temperature": temperature,
        "before": _measures(logits, truth, info),
        "after": _measures(logits / temperature, truth, calibrated.info),
        "examples": len(truth),
    }
    return calibrated, report


def write_calibrated(model: Any, run: Path) -> Path:
    """Writes calibrated.keras into a run directory, whole or not at all."""
    path = run / layout.CALIBRATED
    with atomic_write(path) as partial:
        model.save(partial)
    if model.info.config is None:  # which `open_model` asks for
        done = layout.read_json(run / layout.FINISHED)
        done.setdefault("sha256", {})[path.name] = sha256(path)
        write_whole(run / layout.FINISHED, json.dumps(done))
    return path


def _measures(logits: np.ndarray, truth: np.ndarray, info: Any) -> dict[str, float]:
    several = info.several_labels
    tally: Any = TagTally(info.thresholds) if several else Tally(info.classes)
    tally.add(to_probabilities(logits, info), truth)
    result = tally.result(info.class_names or tuple(map(str, range(info.classes))))
    return {name: result[name] for name in ("loss", "calibration_error")}
