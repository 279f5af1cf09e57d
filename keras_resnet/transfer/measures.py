"""The measures of boxes and masks, those of boxes by pycocotools' own code."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_resnet.data.splits import Source
from keras_resnet.data.transforms.letterbox import IGNORED
from keras_resnet.errors import DataError, Error
from keras_resnet.transfer.answers import answers

# what COCOeval summarizes, in its order
_STATS = ("map", "map50", "map75", "map_small", "map_medium", "map_large")

Boxes = Mapping[str, Any]


def measure(
    model: Any,
    source: Source,
    split: str = "val",
    batch_size: int = 16,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, Any]:
    """Measures a detector or segmenter on each image of a split, in its own pixels.

    Args:
        model: of the task of `source`, with its classes.
        source: a Source of boxes or masks.
        split: "val" or "train".
        batch_size: the number of images in a batch.
        progress: a function that wraps the iteration over the batches; where it ends
            early, the result is of the images until then.

    Returns:
        What `average_precision` or `mean_iou` returns, and "examples": the number of
        images.
    """
    examples: Any = source.split(split)
    found = answers(model, examples, batch_size, progress)
    names = source.class_names
    if source.task == "segment":
        pairs = ((examples.truth(n), it["mask"]) for n, it in enumerate(found))
        return mean_iou(pairs, names)
    seen = [*found]
    truth = [examples.truth(number) for number in range(len(seen))]
    return {**average_precision(truth, seen, names), "examples": len(seen)}


def mean_iou(
    masks: Iterable[tuple[np.ndarray, np.ndarray]], class_names: Sequence[str]
) -> dict[str, Any]:
    """The mean intersection over union of masks, as `keras.metrics.MeanIoU` has it.

    Args:
        masks: (truth, found) of each image, of the same shape: a class for each pixel,
            where 255 in the truth counts for nothing.
        class_names: of the numbers, in order.

    Returns:
        {"mean_iou": over the classes that are in the truth or were found,
        "pixel_accuracy": the share of pixels of the right class, "per_class": {name:
        its intersection over union, or None}, "examples": the number of images}, each
        in [0, 1].
    """
    classes = len(class_names)
    counts, examples = np.zeros(classes**2, np.int64), 0
    for truth, found in masks:
        known = truth != IGNORED
        places = classes * truth[known].astype(np.int64) + found[known]
        counts += np.bincount(places, minlength=classes**2)
        examples += 1
    total = counts.reshape(classes, classes)  # rows: truth, columns: found
    hits, union = np.diag(total), total.sum(0) + total.sum(1) - np.diag(total)
    shares = np.where(union > 0, hits / np.maximum(union, 1), np.nan)
    pixels = total.sum()
    return {
        "mean_iou": float(np.nanmean(shares)) if pixels else None,
        "pixel_accuracy": float(hits.sum() / pixels) if pixels else None,
        "per_class": {
            name: None if np.isnan(share) else float(share)
            for name, share in zip(class_names, shares)
        },
        "examples": examples,
    }


def average_precision(
    truth: Sequence[Boxes], found: Sequence[Boxes], class_names: Sequence[str]
) -> dict[str, Any]:
    """The mean average precision of detections, as COCO's own evaluation has it.

    Args:
        truth: for each image {"boxes": [N, 4], "labels": [N]}, boxes as (left, top,
            right, bottom) in pixels; labels of -1 are left out, as they fill batches
            up. "crowd" [N], where given, marks regions that count for nothing, and
            "area" [N] the objects' areas, which else are those of the boxes.
        found: for each image the same and "confidence" [N]; at most the 100 most
            confident count.
        class_names: of the labels, in order.

    Returns:
        {"map": over IoU 0.5 to 0.95, "map50", "map75", "map_small", "map_medium",
        "map_large": of boxes up to 32 x 32, up to 96 x 96 and larger, "per_class":
        {name: "map" of the class}}, each in [0, 1], or None where there is no box.

    Raises:
        DataError: there are not as many images in both, or a label has no name.
        Error: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise Error(
            "average_precision: needs pycocotools; pip install keras-resnet-d[transfer]"
        ) from error
    if len(truth) != len(found):
        raise DataError(
            f"found: has {len(found)} images, but truth has {len(truth)}; give an "
            "entry for each, empty ones too"
        )
    classes = len(class_names)
    categories = [{"id": number, "name": it} for number, it in enumerate(class_names)]
    dataset = {
        "info": {},
        "images": [{"id": number} for number in range(len(truth))],
        "categories": categories,
        "annotations": _rows(truth, classes, "truth"),
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        reference, answers = COCO(), COCO()
        reference.dataset = dataset
        answers.dataset = {**dataset, "annotations": _rows(found, classes, "found")}
        reference.createIndex()
        answers.createIndex()
        evaluation = COCOeval(reference, answers, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    result: dict[str, Any] = {
        name: _score(value) for name, value in zip(_STATS, evaluation.stats)
    }
    # [IoU, recall, class, area, detections], of all areas and 100 detections
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    result["per_class"] = {
        name: _score(_mean(precision[:, :, number]))
        for number, name in enumerate(class_names)
    }
    return result


def _rows(images: Sequence[Boxes], classes: int, name: str) -> list[dict[str, Any]]:
    """The boxes of all images as COCO's annotations."""
    rows: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        boxes = np.asarray(image["boxes"], np.float64).reshape(-1, 4)
        labels = np.asarray(image["labels"]).reshape(-1)
        crowd = np.asarray(image.get("crowd", np.zeros(len(labels))), bool)
        scores = np.asarray(image.get("confidence", np.ones(len(labels))), np.float64)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        areas = np.asarray(image.get("area", areas), np.float64)
        for box, label, is_crowd, score, area in zip(
            boxes, labels, crowd, scores, areas
        ):
            if label == -1:
                continue
            if not 0 <= label < classes:
                raise DataError(
                    f"{name}: image {number} has the label {label}; must be 0 to "
                    f"{classes - 1}, or -1 for none"
                )
            left, top, right, bottom = box
            rows.append(
                {
                    "id": len(rows) + 1,  # 0 would count as no match
                    "image_id": number,
                    "category_id": int(label),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": float(area),
                    "iscrowd": int(is_crowd),
                    "score": float(score),
                }
            )
    return rows


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def _score(value: float) -> float | None:
    """None for -1, by which COCO says that there is no box."""
    return None if value < 0 else float(value)
