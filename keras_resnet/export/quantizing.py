"""Images that calibrate an int8 export, and what the export costs in accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.data import blame_pictures, eval_batches, open_source, without_bad
from keras_resnet.data.sources import SourceLike
from keras_resnet.data.splits import Source, Split
from keras_resnet.errors import DataError, ModelError
from keras_resnet.evaluate import evaluation
from keras_resnet.export.converters import Calibration
from keras_resnet.export.description import Accuracy
from keras_resnet.export.engines import open_engine

IMAGES = 300  # to calibrate on
HELD_OUT = 5000  # images to measure accuracy on, at most
SEED = 0  # of the choice of both
_BATCH = 16


def divide(data: SourceLike, model: Any) -> tuple[np.ndarray, Source]:
    """Chooses the images that calibrate a model, and those that it is measured on.

    Args:
        data: what `data.open_source` takes, with the model's classes. If it has both
            splits, the model is calibrated on training images, and measured on
            validation images; otherwise on two disjoint parts of the one split.
        model: the model, of whose protocol the images are.

    Returns:
        (300 images at most, uint8 [N, S, S, 3]; a source whose split "val" has 5,000 at
        most).

    Raises:
        DataError: the data cannot be used, or has a single image.
        ModelError: its classes are not those of the model.
    """
    source = open_source(data)
    evaluation.check_classes(model, source)
    source, _ = without_bad(source, 0, tuple(source.splits))
    splits = [*source.splits.values()]
    if len(splits) == 2:
        chosen = [_some(splits[0], IMAGES), _some(splits[1], HELD_OUT)]
    else:
        (split,) = splits
        if split.size < 2:
            raise DataError(f"{source.path}: has one image; calibration needs two")
        order = _order(split)
        ends = min(IMAGES, split.size // 2), IMAGES + HELD_OUT
        chosen = [split.take(order[: ends[0]]), split.take(order[ends[0] : ends[1]])]
    divided = dataclasses.replace(source, train=chosen[0], val=chosen[1])
    with blame_pictures(divided, ("train",)):
        batches = eval_batches(divided, model.info.protocol, "train", _BATCH)
        images = np.concatenate([images.numpy() for images, _ in batches])
    return images, divided


def _some(split: Split, count: int) -> Split:
    return split if split.size <= count else split.take(_order(split)[:count])


def _order(split: Split) -> np.ndarray:
    return np.random.default_rng(SEED).permutation(split.size)


def quantize(
    write: Callable[[Calibration], Path],
    images: np.ndarray,
    model: Any,
    held_out: Source,
    most_loss: float,
    format: str,
) -> Accuracy:
    """Writes a model in int8, again with both ends in float32 if it loses too much.

    Args:
        write: writes the model, and returns the folder that `open_engine` opens.
        images: to calibrate on, uint8 [N, S, S, 3].
        model: the model in float32.
        held_out: the source of which the split "val" is measured.
        most_loss: percentage points that may be lost.
        format: of the file; LiteRT's converter quantizes all layers.

    Returns:
        The accuracy of what was written last.

    Raises:
        ModelError: more than `most_loss` is lost.
    """
    name, before, examples = _measure(model, held_out)
    for float_ends in (False, True) if format != "litert" else (False,):
        with open_engine(write(Calibration(images, float_ends))) as engine:
            accuracy = Accuracy(name, before, _measure(engine, held_out)[1], examples)
        if accuracy.lost <= most_loss:
            return accuracy
    raise ModelError(
        f"precision='int8': {accuracy}, {accuracy.lost:.2f} points less, more than "
        f"most_loss={most_loss:g}; calibrate on more images like those it will see, "
        "allow more (--most-loss), or export in float32"
    )


def _measure(model: Any, source: Source) -> tuple[str, float, int]:
    """(the measure, its value in [0, 1], the number of images) of a model."""
    name = "micro_f1" if source.several_labels else "top1"
    measured = evaluation.run(model, source, batch_size=_BATCH)
    return name, measured[name], measured["examples"]
