"""Boxes and masks of image files, as tables, COCO's JSON and pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_resnet.data import decode_image, load_square
from keras_resnet.data.annotated.marking import mark, palette
from keras_resnet.data.splits import Source
from keras_resnet.drawing import png
from keras_resnet.evaluate.prediction import (
    Paths,
    class_names,
    list_pictures,
    outputs,
)
from keras_resnet.files import atomic_write
from keras_resnet.model import note_random_weights
from keras_resnet.transfer import answer, answers

_COLUMNS = 4  # of a grid of images


def find_each(
    model: Any, files: Paths, batch_size: int = 8
) -> Iterator[tuple[str, dict[str, np.ndarray] | str]]:
    """Yields (path, what a detector or segmenter says of it) for each image file.

    Args:
        model: a Detector or Segmenter of a run, or an exported one.
        files: the paths of image files or folders.
        batch_size: the number of images in memory.

    Yields:
        What `transfer.answer` returns; or the reason why a file cannot be read.
    """
    note_random_weights(model)
    paths = list(list_pictures(files))
    size = min(batch_size, len(paths)) or 1
    for start in range(0, len(paths), size):
        batch = paths[start : start + size]
        found = outputs(
            model,
            batch,
            size,
            _answer,
            load_square,
        )
        yield from zip(batch, found)


def _answer(model: Any, loaded: Any, size: int) -> Any:
    squares, inner, sizes = loaded
    return answer(model, squares, inner, sizes, size)


def as_rows(model: Any, path: str, found: Any, number: int) -> list[dict[str, Any]]:
    """What was found in one image, as JSON.

    For a detector these are COCO's results: image_id counts the images from 1, and
    category_id the classes from 1; bbox is [left, top, width, height] in pixels. For a
    segmenter it is one row with the share of pixels of each class that is there.
    """
    names = class_names(model)
    if isinstance(found, str):
        return [{"file_name": path, "problem": found}]
    if "mask" in found:
        counts = np.bincount(found["mask"].ravel(), minlength=len(names))
        shares = {
            names[it]: float(counts[it] / counts.sum()) for it in np.flatnonzero(counts)
        }
        return [{"file_name": path, "classes": shares}]
    return [
        {
            "image_id": number,
            "file_name": path,
            "category_id": int(label) + 1,
            "category": names[label],
            "bbox": [left, top, right - left, bottom - top],
            "score": float(score),
        }
        for (left, top, right, bottom), label, score in zip(
            found["boxes"].tolist(), found["labels"], found["confidence"]
        )
    ]


def confident(found: Any, threshold: float) -> Any:
    """The boxes whose confidence is at least `threshold`; masks as they are."""
    if isinstance(found, str) or "mask" in found:
        return found
    kept = found["confidence"] >= threshold
    return {name: values[kept] for name, values in found.items()}


def write_marked(model: Any, path: str, found: Any, folder: Path, number: int) -> str:
    """Writes a picture with its boxes or mask drawn on it, and a mask's PNG file.

    Returns:
        The name of the picture, which begins with `number`.
    """
    names, stem = class_names(model), f"{number:05d}-{Path(path).stem}"
    image = decode_image(Path(path).read_bytes()).numpy()
    _save(Image.fromarray(mark(image, found, names)), folder / f"{stem}.png")
    if "mask" in found:
        mask = Image.fromarray(found["mask"])
        mask.putpalette(palette(len(names)))
        _save(mask, folder / f"{stem}.mask.png")
    return f"{stem}.png"


def answer_grid(
    model: Any,
    source: Source,
    path: str | os.PathLike[str],
    count: int = 12,
    split: str = "val",
    threshold: float = 0.5,
) -> None:
    """Writes a PNG of images of a split, with what the model finds in them.

    Args:
        model: of the task of `source`.
        source: a Source of boxes or masks.
        path: the file to write.
        count: the number of images, which are spread over the split.
        split: "val" or "train".
        threshold: the least confidence of a box that is drawn.
    """
    from matplotlib.figure import Figure

    examples = source.split(split)
    count = min(count, examples.size)
    spread = examples.take(np.linspace(0, examples.size - 1, count).astype(int))
    rows = -(-count // _COLUMNS)
    figure = Figure(figsize=(3 * _COLUMNS, 3 * rows), layout="constrained")
    found = answers(model, spread, min(count, 8))
    for place, ((data, _), it) in enumerate(zip(spread.ordered(), found), start=1):
        axes = figure.add_subplot(rows, _COLUMNS, place)
        image = mark(
            decode_image(data).numpy(), confident(it, threshold), source.class_names
        )
        axes.imshow(image, interpolation="nearest")
        axes.set_axis_off()
    figure.suptitle(f"{source.path}: found in {count} images of {split}")
    Path(path).write_bytes(png(figure))


def _save(image: Image.Image, path: Path) -> None:
    with atomic_write(path) as partial, open(partial, "wb") as file:
        image.save(file, "PNG")
