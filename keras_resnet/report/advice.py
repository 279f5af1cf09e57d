"""What to try next: rules, each of which looks at one figure of a run."""

from __future__ import annotations

import numpy as np

from keras_resnet.report.facts import Facts, interval, slices
from keras_resnet.runs import layout
from keras_resnet.runs.history import best_place
from keras_resnet.tasks import TASKS

_GAP = 0.10  # of training above validation, from which on a net overfits
_LOSS_RISE = 0.10  # of the validation loss above its least
_LOW = 0.90  # training measure below which a net may underfit
_GAIN = 0.01  # in the last fifth of the epochs, from which on more are worth a try
_BETTER = 0.005  # of another model of the run, to be named
_CALIBRATION = 0.03  # error from which on the probabilities are worth a correction
_IMBALANCE = 0.05  # of top-1 above balanced accuracy
_FEW = 5  # times fewer training images than the median class
_SURE = 0.95  # confidence of mistakes that may be wrong labels
_PAIR = 0.2  # share of all mistakes that are one pair's
_LEAST = 5  # mistakes, below which nothing is said of them
_SLICE = 0.05  # of a slice below the rest
# which make training images harder than validation images, and their measures worse
_HARDENING = ("mixup", "cutmix", "rand_augment", "erasing", "teacher")


def advise(facts: Facts) -> list[str]:
    """What to try next, a sentence or two each; commands are between backticks."""
    return [text for rule in RULES if (text := rule(facts))]


def overfits(facts: Facts) -> str | None:
    """Training is measured much better than validation."""
    gap = _gap(facts)
    if gap is None or gap[0] - gap[1] < _GAP:
        return None
    return (
        f"Overfitting: {_label(facts)} is {gap[0]:.1%} in training and {gap[1]:.1%} in "
        "validation. More images help most; then stronger augmentation, such as "
        "`--rand-augment 7` or `--mixup 0.2`, more `--weight-decay`, or a start from "
        "released weights, `--weights imagenet`."
    )


def loss_rises(facts: Facts) -> str | None:
    """The validation loss has risen since its least, while that of training fell."""
    rows = [row for row in facts.history if "val_loss" in row and "loss" in row]
    if not rows:
        return None
    least, last = min(rows, key=lambda row: row["val_loss"]), rows[-1]
    rises = last["val_loss"] > (1 + _LOSS_RISE) * least["val_loss"]
    if not rises or last["loss"] >= least["loss"]:
        return None
    return (
        f"The validation loss rose from {least['val_loss']:.3f} after epoch "
        f"{least['epoch']} to {last['val_loss']:.3f}, while the training loss fell: "
        "train fewer epochs, or with stronger augmentation."
    )


def underfits(facts: Facts) -> str | None:
    """Training itself is measured badly, though its images are not made harder."""
    gap = _gap(facts)
    hardened = any(getattr(facts.recipe, name) for name in _HARDENING)
    if gap is None or hardened or gap[0] >= _LOW or gap[0] - gap[1] >= _GAP:
        return None
    return (
        f"Underfitting: {_label(facts)} is only {gap[0]:.1%} on the training images "
        "themselves. Train longer, with a wider or deeper `--model`, or search for a "
        "better rate with `keras-resnet find-rate`."
    )


def still_improves(facts: Facts) -> str | None:
    """The measure has risen in the last fifth of the epochs."""
    monitor = facts.recipe.monitor
    rows = [row for row in facts.history if monitor in row]
    start = len(rows) - len(rows) // 5 - 1
    if len(rows) < 5 or rows[-1][monitor] < max(row[monitor] for row in rows):
        return None
    gain = rows[-1][monitor] - rows[start][monitor]
    if gain < _GAIN:
        return None
    return (
        f"Still improving: {monitor} rose by {100 * gain:.1f} points from epoch "
        f"{rows[start]['epoch']} to {rows[-1]['epoch']}, the last. The same `train` "
        f"command with more than `--epochs {facts.recipe.epochs}` goes on from here."
    )


def best_was_earlier(facts: Facts) -> str | None:
    """An earlier epoch was better than the last."""
    monitor = facts.recipe.monitor
    best = best_place(facts.history, monitor)
    if best is None or monitor not in facts.history[-1]:
        return None
    value, last = (facts.history[it][monitor] for it in (best.epoch - 1, -1))
    if value - last < _BETTER or not (facts.run / layout.BEST).is_file():
        return None
    return (
        f"{monitor} was {value:.2%} after epoch {best.epoch}, and is {last:.2%} now: "
        f"{layout.BEST} in the run directory is the model of that epoch."
    )


def average_is_better(facts: Facts) -> str | None:
    """The moving average of the weights is better than the weights."""
    measure = TASKS[facts.recipe.task].measure
    last = facts.history[-1] if facts.history else {}
    own, average = last.get(f"val_{measure}"), last.get(f"val_ema_{measure}")
    if own is None or average is None or average - own < _BETTER:
        return None
    return (
        f"The moving average of the weights has a {_label(facts)} of {average:.2%}, "
        f"the weights {own:.2%}: use {layout.AVERAGE} in the run directory."
    )


def is_miscalibrated(facts: Facts) -> str | None:
    """The probabilities are further from the accuracy than they need be."""
    error = facts.metrics.get("calibration_error", 0.0)
    if error < _CALIBRATION:
        return None
    mean = ""
    if facts.answers is not None:
        confidence = facts.answers.confidence.mean()
        mean = f", with a mean confidence of {confidence:.1%} in the answers"
    return (
        f"The calibration error is {error:.1%}{mean}. `keras-resnet calibrate "
        f"{facts.run}` writes a model whose probabilities are right; the answers stay."
    )


def copies_leak(facts: Facts) -> str | None:
    """Validation images are training images too."""
    copies = facts.contents.copies if facts.contents else []
    if not copies:
        return None
    count, total = len(copies), facts.metrics["examples"]
    return (
        f"{count} of the {total} validation images {_are(count)} among the training "
        "images too, so that the measures are too good: remove them from one of the "
        "two."
    )


def few_images(facts: Facts) -> str | None:
    """Classes have far fewer training images than the others."""
    counts = facts.contents.train_counts if facts.contents else None
    if counts is None:
        return None
    median = np.median(counts)
    few = np.flatnonzero(counts * _FEW <= median)
    if not few.size:
        return None
    least = few[counts[few].argmin()]
    return (
        f"{few.size} of {counts.size} classes {_have(few.size)} at most a fifth of the "
        f"median class's {median:g} training images; {_name(facts, least)} has "
        f"{counts[least]}. Add images of such classes."
    )


def is_imbalanced(facts: Facts) -> str | None:
    """Rare classes are recognized worse than frequent ones."""
    if "balanced_accuracy" not in facts.metrics:
        return None
    top1, balanced = (facts.metrics[it] for it in ("top1", "balanced_accuracy"))
    if top1 - balanced < _IMBALANCE:
        return None
    return (
        f"Top-1 is {top1:.1%}, but the mean over the classes {balanced:.1%}: classes "
        "with few images are recognized worse. Judge by the balanced accuracy, add "
        "images of the worst classes, or train with `--class-weights balanced` or "
        "`--sampling balanced`."
    )


def pair_is_confused(facts: Facts) -> str | None:
    """One pair of classes makes a large part of all mistakes."""
    pairs, metrics = facts.metrics.get("confused"), facts.metrics
    if not pairs or len(metrics["per_class"]) < 3 or pairs[0]["count"] < _LEAST:
        return None
    worst, wrong = pairs[0], round((1 - metrics["top1"]) * metrics["examples"])
    if worst["count"] < _PAIR * wrong:
        return None
    return (
        f"{worst['count']} of the {wrong} mistakes take {worst['true']} for "
        f"{worst['predicted']}: look whether these classes overlap, and whether their "
        "labels are right."
    )


def mistakes_are_sure(facts: Facts) -> str | None:
    """Mistakes of great confidence, which wrong labels often are."""
    if facts.answers is None:
        return None
    wrong = ~facts.answers.right
    sure = int((wrong & (facts.answers.confidence > _SURE)).sum())
    if sure < _LEAST:
        return None
    return (
        f"{sure} of the {wrong.sum()} mistakes have a confidence above {_SURE:.0%}: "
        "look below whether their labels are right."
    )


def slice_is_worse(facts: Facts) -> str | None:
    """A part of the images is recognized worse than the whole."""
    if facts.answers is None:
        return None
    top1 = facts.metrics["top1"]
    worse = [
        it
        for it in slices(facts)
        if it.top1 < top1 - _SLICE and interval(it.right, it.total)[1] < top1
    ]
    if not worse:
        return None
    worst = min(worse, key=lambda it: it.top1)
    return (
        f"Top-1 is {worst.top1:.1%} on the {worst.total} images of the slice "
        f"{worst.name!r}, and {top1:.1%} on all: train on more images of this kind."
    )


RULES = (
    copies_leak,
    overfits,
    loss_rises,
    underfits,
    still_improves,
    best_was_earlier,
    average_is_better,
    is_miscalibrated,
    few_images,
    is_imbalanced,
    pair_is_confused,
    mistakes_are_sure,
    slice_is_worse,
)


def _gap(facts: Facts) -> tuple[float, float] | None:
    """The measure of the last epoch in (training, validation), if it has both."""
    measure = TASKS[facts.recipe.task].measure
    last = facts.history[-1] if facts.history else {}
    if measure not in last or f"val_{measure}" not in last:
        return None
    return last[measure], last[f"val_{measure}"]


def _label(facts: Facts) -> str:
    return TASKS[facts.recipe.task].label


def _name(facts: Facts, index: int) -> str:
    return list(facts.metrics["per_class"])[index]


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
