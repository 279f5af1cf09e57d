"""Evaluates a model on a data set, with each image counted exactly once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from keras_resnet import onednn
from keras_resnet.data import blame_pictures, eval_batches, open_source, without_bad
from keras_resnet.data.sources import SourceLike
from keras_resnet.data.splits import Source
from keras_resnet.errors import DataError, ModelError
from keras_resnet.evaluate.measures import TagTally, Tally
from keras_resnet.evaluate.views import check_views, open_views
from keras_resnet.model import ResNet, rebuild
from keras_resnet.transfer import measure


def run(
    model: Any,
    data: SourceLike,
    split: str = "val",
    batch_size: int = 64,
    max_bad_examples: int = 0,
    views: str = "center",
    progress: Callable[[Iterable], Iterable] = iter,
    size: int | None = None,
    scales: Sequence[int] = (),
    observe: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> dict[str, Any]:
    """Evaluates a model under the evaluation protocol stored in it.

    What follows is of a classifier. A detector or segmenter takes data of its task, and
    the result is that of `transfer.measure`.

    Args:
        model: a model of this package that includes its top, or an exported model from
            `engines.open_engine`, which takes a single size. It is not changed.
        data: what `data.open_source` takes.
        split: "val" or "train".
        batch_size: the number of images in a batch; it does not affect the result.
        max_bad_examples: how many images that cannot be decoded may be left out.
        views: "center" for the protocol's crop; "ten-crop" for the mean of the
            probabilities of ten crops (10 times the computation); or "multi-scale" for
            the mean over whole images and their mirror images at the scales of
            arXiv 1512.03385 (about 40 times the computation).
        progress: a function that wraps the iteration over the batches, such as a
            progress bar.
        size: the side of the crop in pixels, in place of the protocol's; `crop_pct` is
            unchanged. If needed, a copy of the model is built for any size.
        scales: the short sides in pixels for "multi-scale", which they imply.
        observe: a function that is called with the probabilities [N, K] and the true
            classes, integers [N], or booleans [N, K] for several labels, of each batch,
            in the order of the split; for classifiers alone.

    Returns:
        For one label an image, a dictionary of:

        - "top1", "top5": accuracies in [0, 1]. Of classes with equal probabilities, the
          first ranks highest.
        - "loss": the mean cross-entropy in nats.
        - "calibration_error": in [0, 1] (arXiv 1706.04599 equation 3, with 15 bins of
          confidence).
        - "balanced_accuracy": the mean over classes of the share of a class's images
          that are recognized; "macro_f1": that of the harmonic mean of precision and
          recall, over classes that have images or were predicted.
        - "examples": the number of images.
        - "per_class": {class name: top-1 in [0, 1], its recall, or None without
          images}; "precision": {class name: the share of the images predicted to be of
          the class that are, or None where none was}.
        - "average_precision": {class name: that of telling the class from all others by
          its probability, in [0, 1], or None without images}, as in scikit-learn;
          "mean_average_precision": their mean. Only for up to 2^26 probabilities.
        - "confused": [{"true", "predicted", "count", "share"}, ...], the 100 pairs of
          classes that are confused most often; "share" is the share of the true class.
        - "confusion": the counts, as rows of true classes and columns of predicted
          classes; only for up to 1,000 classes.
        - "bad_examples": [{"split", "where", "reason"}, ...]; only if images were left
          out.

        For several labels:

        - "top1", "top5": the share of images of which the likeliest class, or one of
          the five likeliest, is a label.
        - "loss": the mean binary cross-entropy in nats; "calibration_error": of all
          pairs of an image and a class.
        - "average_precision" and "mean_average_precision", as above.
        - "per_class": {class name: the recall at the model's threshold}, "precision"
          and "f1" likewise, and "macro_f1", the mean of "f1"; "micro_f1": that of all
          pairs of an image and a class. None for a class of no image.
        - "thresholds", "examples" and "bad_examples".

    Raises:
        ValueError: views, size or scales are invalid; raised before any data is read.
        ModelError: the model has no classifier, its classes differ from those of the
            data, its outputs are not finite, or it is exported and takes another size.
        DataError: the data cannot be used.
    """
    check_views(views, size, scales)
    task = model.info.task
    source = open_source(data, not max_bad_examples, task)
    check_classes(model, source)
    source, skipped = without_bad(source, max_bad_examples, (split,))
    onednn.recommend()
    if task != "classify":
        if views != "center" or size is not None or scales:
            raise ModelError(
                f"views={views!r}, size={size}, scales={scales}: are for classifiers, "
                f"and {model.name} is for task={task!r}"
            )
        with blame_pictures(source, (split,)):
            metrics = measure(model, source, split, min(batch_size, 16), progress)
        return _complete(metrics, source, split, skipped)
    views = "multi-scale" if scales else views
    protocol = model.info.protocol
    if size is not None:
        protocol = dataclasses.replace(protocol, size=int(size))
    fits = size is None or model.input_shape[1:3] == (size, size)
    if views == "multi-scale" or not fits:
        model = _of_any_size(model)
    load, batch_size, classify = open_views(model, views, scales, batch_size)
    batches = eval_batches(source, protocol, split, batch_size, load)
    several, thresholds = source.several_labels, model.info.thresholds
    tally: Any = TagTally(thresholds) if several else Tally(len(source.class_names))
    with blame_pictures(source, (split,)):
        for images, labels in progress(batches):
            probabilities = classify(images.numpy())
            if not np.isfinite(probabilities).all():
                raise ModelError(
                    f"{model.name}: its probabilities are not finite; its weights are "
                    f"damaged, or overflow in {model.info.dtype_policy}; check the "
                    "weights, or use another dtype policy"
                )
            truth = labels.numpy()
            truth = truth > 0 if several else truth.argmax(1)
            tally.add(probabilities, truth)
            if observe:
                observe(probabilities, truth)
    return _complete(tally.result(source.class_names), source, split, skipped)


def _complete(
    metrics: dict[str, Any], source: Source, split: str, skipped: list[dict]
) -> dict[str, Any]:
    """The metrics, if they are of every image, with the images that were left out."""
    if metrics["examples"] != source.split(split).size:
        raise DataError(
            f"{source.path}: {metrics['examples']} {split} images were read, but "
            f"{source.split(split).size} expected; prepare the data again"
        )
    return {**metrics, **({"bad_examples": skipped} if skipped else {})}


def _of_any_size(model: Any) -> Any:
    if model.input_shape[1:3] == (None, None):
        return model
    if not isinstance(model, ResNet):
        raise ModelError(
            f"{model.name}: an exported model takes {model.input_shape[1]} pixels "
            "only; leave out size and scales, or pass the model that was exported"
            if model.info.config
            else f"{model.name}: takes {model.input_shape[1]} pixels only; leave out "
            "size and scales"
        )
    return rebuild(model, model.info.dtype_policy, input_shape=None)


def check_classes(model: Any, source: Source) -> None:
    if not model.info.include_top:
        raise ModelError(f"{model.name}: has no classifier; use include_top=True")
    class_names = model.info.class_names
    if class_names is not None and tuple(class_names) != source.class_names:
        differing = sorted(set(class_names) ^ set(source.class_names))
        raise ModelError(
            f"{source.path}: its classes differ from those of the model: "
            + (
                f"only in one: {', '.join(differing[:10])}"
                if differing
                else "other order"
            )
        )
    if model.info.several_labels != source.several_labels:
        counts = ("one label", "several labels")
        raise ModelError(
            f"{source.path}: its images have {counts[source.several_labels]} each, but "
            f"the model was trained for {counts[model.info.several_labels]}"
        )
    if model.info.classes != len(source.class_names):
        raise ModelError(
            f"{source.path}: has {len(source.class_names)} classes, but the model has "
            f"{model.info.classes}; use a model that was trained on these classes"
        )
