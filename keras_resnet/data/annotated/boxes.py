"""Checks annotated boxes against the sizes of their pictures, and makes the split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_resnet.data.annotated.listing import fault, one_line
from keras_resnet.data.annotated.pixels import read_headers, read_size
from keras_resnet.data.annotated.splits import Boxed
from keras_resnet.errors import DataError

Size = tuple[int | float | None, int | float | None]
MAX_COORDINATE = 1e30  # above, an annotation file is broken, and float32 overflows
# {what is counted: its note}; only the first of them is kept
_FAULTS = {
    "clipped": "clipped to the picture",
    "left out: empty": "left out, as it is empty",
    "left out: outside": "left out, as it is outside of the picture",
    "left out: unknown class": "left out, as its class is not defined",
}
_CLIPPED, _EMPTY, _OUTSIDE, _UNKNOWN = _FAULTS
_ROUNDING = 0.02  # pixels; COCO's sides and corners are rounded to 0.01
_NOTED = 5  # annotations of each kind and split


@dataclass(frozen=True, eq=False)
class Annotations:
    """The annotations of a split, as its files have them."""

    files: list[str]
    ids: list[int]
    sizes: list[Size]  # (width, height) as annotated, None where they are not
    places: Callable[[int], str]  # how to name a picture in messages
    owners: np.ndarray  # int64 [all], the number of the picture of each box
    boxes: np.ndarray  # float64 [all, 4]: left, top, right, bottom in pixels
    labels: np.ndarray  # int64 [all], -1 for a class that is not defined
    crowd: np.ndarray  # bool [all]
    areas: np.ndarray  # float64 [all], NaN where it is that of the box
    names: Callable[[int], str]  # how to name an annotation in notes


def make_split(found: Annotations) -> tuple[Boxed, dict[str, int], list[str]]:
    """Returns the split, its counts, and notes about what is left out or clipped.

    Raises:
        DataError: a picture is missing or has another size than annotated.
    """
    limits = np.tile(_read_sizes(found), 2)[found.owners]
    kinds, boxes = _judge(found.boxes, found.labels, limits)
    kept = np.flatnonzero(kinds <= 1)  # nothing is wrong, or clipped
    kept = kept[np.argsort(found.owners[kept], kind="stable")]
    per_picture = np.bincount(found.owners[kept], minlength=len(found.files))
    crowd = found.crowd[kept]
    single = np.bincount(found.owners[kept][~crowd], minlength=1)
    areas, sides = found.areas[kept], boxes[kept, 2:] - boxes[kept, :2]
    split = Boxed(
        tuple(found.files),
        np.concatenate([[0], np.cumsum(per_picture)]).astype(np.int64),
        boxes[kept],
        found.labels[kept],
        crowd,
        tuple(found.ids),
        max(1, int(single.max())),
        np.where(np.isnan(areas), np.prod(sides, axis=1), areas),
    )
    counts = {
        "pictures": split.size,
        "boxes": len(kept),
        "without boxes": int((per_picture == 0).sum()),
        "crowd": int(crowd.sum()),
    }
    notes = []
    for index, (kind, what) in enumerate(_FAULTS.items(), 1):
        numbers = np.flatnonzero(kinds == index)
        counts[kind] = len(numbers)
        for number in numbers[:_NOTED]:
            box = ", ".join(f"{side:g}" for side in found.boxes[number])
            size = " x ".join(f"{side:g}" for side in limits[number][:2])
            note = f"{found.names(int(number))}: {what} ({box} in {size})"
            notes.append(one_line(note))
    return split, counts, notes


def _judge(
    boxes: np.ndarray, labels: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(the kind of each box, 0 or 1 + its index in _FAULTS; float32 clipped boxes)."""
    inside = np.clip(boxes, 0, limits)
    clipped = inside.astype(np.float32)
    corners, ends, sides = boxes[:, :2], boxes[:, 2:], limits[:, :2]
    cases = [
        (_UNKNOWN, labels < 0),
        (_EMPTY, (ends <= corners).any(1)),
        (_OUTSIDE, ((ends <= 0) | (corners >= sides)).any(1)),
        # float32 has less precision: what is left may be empty only now
        (_EMPTY, (clipped[:, 2:] <= clipped[:, :2]).any(1)),
        (_CLIPPED, (np.abs(boxes - inside) > _ROUNDING).any(1)),
    ]
    numbers = [1 + list(_FAULTS).index(kind) for kind, _ in cases]
    return np.select([holds for _, holds in cases], numbers, 0), clipped


def _read_sizes(found: Annotations) -> np.ndarray:
    """float64 [pictures, 2] of (width, height) in the headers, as annotated."""

    def read(number: int) -> tuple[int, int]:
        place, file = found.places(number), found.files[number]
        annotated = found.sizes[number]
        try:
            size = read_size(file)
        except DataError as error:
            raise DataError(one_line(f"{place}: {error}")) from error
        if any(a is not None and a != b for a, b in zip(annotated, size)):
            width, height = ("?" if side is None else f"{side:g}" for side in annotated)
            turned = (
                " (turned by its EXIF orientation?)" if annotated == size[::-1] else ""
            )
            problem = (
                f"{width} x {height} pixels as annotated, but {file} has "
                f"{size[0]} x {size[1]}{turned}"
            )
            raise fault(place, problem, "annotate the picture as it is stored")
        return size

    sizes = read_headers(read, range(len(found.files)))
    return np.array(sizes, np.float64).reshape(-1, 2)
