"""Reads annotation files in COCO's format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.data.annotated.boxes import MAX_COORDINATE, Annotations, Size
from keras_resnet.data.annotated.entries import (
    Entry,
    parse_file,
    read_ids,
    read_unique_ids,
)
from keras_resnet.data.annotated.listing import (
    SPLIT_NAMES,
    check_class,
    check_name,
    fault,
    find_twice,
    show,
)

_NUMBERS = (int, float)


def find_coco(root: Path) -> dict[str, Path]:
    """{split: its annotation file} of a folder, empty if it has none."""
    found: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        files = [root / f"{name}.json" for name in names]
        files += sorted((root / "annotations").glob(f"instances_{split}*.json"))
        files += [root / name / "_annotations.coco.json" for name in names]
        files = [file for file in files if os.path.lexists(file)]
        if len(files) > 1:
            listed = ", ".join(str(file.relative_to(root)) for file in files)
            problem = f"several annotation files of {split} ({listed})"
            raise fault(root, problem, "leave one of them")
        if files:
            found[split] = files[0]
    return found


def read_coco(
    root: Path, found: dict[str, Path]
) -> tuple[tuple[str, ...], dict[str, Annotations]]:
    """Returns the names of the classes, by category id, and {split: annotations}."""
    splits, known = {}, {}
    for split, file in found.items():
        content = parse_file(file)
        known[split] = _read_categories(file, content["categories"])
        splits[split] = _read_split(root, split, file, content, known[split])
        del content  # a gigabyte
    first, *others = found
    for other in others:
        if difference := sorted(known[first].items() ^ known[other].items()):
            problem = (
                f"category {difference[0][0]} ({show(difference[0][1])}) is not the "
                f"same in {found[first]}"
            )
            raise fault(found[other], problem, "give both the same categories")
    return tuple(known[first].values()), splits


def _read_categories(file: Path, entries: list[Entry]) -> dict[int, str]:
    """{id: name}, sorted by id."""
    ids = read_unique_ids(file, "categories", entries)
    names = [entry.get("name") for entry in entries]
    for number, name in zip(ids, names):
        check_class(f"{file}: category {number}", name)
    if twice := find_twice(names):
        problem = f"categories: name {show(twice)} is there twice"
        raise fault(file, problem, "rename one of them")
    if not ids:
        raise fault(file, "'categories' is empty", "list the classes")
    return dict(sorted(zip(ids, map(str, names))))


def _read_split(
    root: Path,
    split: str,
    file: Path,
    content: dict[str, list[Entry]],
    categories: dict[int, str],
) -> Annotations:
    images, entries = content["images"], content["annotations"]
    ids = read_unique_ids(file, "images", images)
    names = [image.get("file_name") for image in images]

    def image_place(number: int) -> str:
        return f"{file}: image {ids[number]}"

    if not ids:
        raise fault(file, "'images' is empty", "a split needs pictures")
    for number, name in enumerate(names):
        check_name(image_place(number), name)
    if twice := find_twice(names):
        problem = f"images: file_name {show(twice)} is there twice"
        raise fault(file, problem, "give its annotations to one image")
    sizes = [_read_size(image_place(n), image) for n, image in enumerate(images)]

    own_ids = np.array(read_unique_ids(file, "annotations", entries), np.int64)
    classes = np.array(read_ids(file, "annotations", entries, "category_id"), np.int64)
    owners = _read_owners(file, entries, ids)

    def name_annotation(number: int) -> str:
        return (
            f"{file}: annotation {own_ids[number]} of category {classes[number]} in "
            f"image {ids[owners[number]]} ({show(names[owners[number]])})"
        )

    boxes, crowd = _read_boxes(file, entries)
    labels = {category: label for label, category in enumerate(categories)}
    return Annotations(
        _join(root, split, file, names),
        ids,
        sizes,
        image_place,
        owners,
        boxes,
        np.array([labels.get(category, -1) for category in classes.tolist()], np.int64),
        crowd,
        _read_areas(entries),
        name_annotation,
    )


def _read_size(place: str, image: Entry) -> Size:
    sides = (image.get("width"), image.get("height"))
    for side in sides:
        if side is not None and (type(side) not in _NUMBERS or not 0 < side < 2**31):
            problem = f"width {show(sides[0])} and height {show(sides[1])}"
            raise fault(place, problem, "they must be pixels, or missing")
    return sides


def _read_owners(file: Path, entries: list[Entry], ids: list[int]) -> np.ndarray:
    numbers = {image: number for number, image in enumerate(ids)}
    images = read_ids(file, "annotations", entries, "image_id")
    owners = [numbers.get(image, -1) for image in images]
    if -1 in owners:
        number = owners.index(-1)
        problem = (
            f"annotation {entries[number]['id']} is of image {images[number]}, which "
            "'images' does not list"
        )
        raise fault(file, problem, "list the image, or remove the annotation")
    return np.array(owners, np.int64)


def _read_boxes(file: Path, entries: list[Entry]) -> tuple[np.ndarray, np.ndarray]:
    """(float64 [n, 4] of left, top, right, bottom; bool [n] of crowd regions)."""
    boxes = [entry.get("bbox") for entry in entries]
    crowd = [entry.get("iscrowd", 0) for entry in entries]
    for entry, box, is_crowd in zip(entries, boxes, crowd):
        if type(box) is not list or len(box) != 4 or not _are_finite(box):
            problem = f"annotation {entry['id']} has bbox {show(box)}"
            remedy = "it must be four finite numbers: left, top, width, height"
            raise fault(file, problem, remedy)
        if is_crowd not in (0, 1):  # or False, True
            problem = f"annotation {entry['id']} has iscrowd {show(is_crowd)}"
            raise fault(file, problem, "it must be 0 or 1")
    array = np.array(boxes, np.float64).reshape(-1, 4)
    array[:, 2:] += array[:, :2]
    return array, np.array(crowd, bool)


def _read_areas(entries: list[Entry]) -> np.ndarray:
    """float64 [n] of the objects' areas, NaN where there is none."""
    areas: list[Any] = [entry.get("area") for entry in entries]
    known = [
        area if type(area) in _NUMBERS and 0 < area < MAX_COORDINATE else np.nan
        for area in areas
    ]
    return np.array(known, np.float64)


def _are_finite(box: list) -> bool:
    return all(
        type(side) in _NUMBERS and -MAX_COORDINATE < side < MAX_COORDINATE
        for side in box
    )


def _join(root: Path, split: str, file: Path, names: list[Any]) -> list[str]:
    """The pictures' paths, in the first folder that has the first of them."""
    stem = file.stem.removeprefix("instances_")
    folders = [*SPLIT_NAMES[split]]
    folders += [] if stem in (*folders, "_annotations.coco") else [stem]
    folders += [*(f"images/{name}" for name in folders), "images", "."]
    for folder in folders:
        if os.path.lexists(root / folder / names[0]):
            prefix = os.path.join(root / folder, "")
            return [prefix + name.replace("/", os.sep) for name in names]
    problem = f"picture {show(names[0])} is in none of {', '.join(folders)} of {root}"
    raise fault(file, problem, "put the pictures in one of them")
