"""Finds pictures with masks of class numbers, and compares their headers."""

from __future__ import annotations

from pathlib import Path

from keras_resnet.data.annotated.listing import (
    SPLIT_NAMES,
    fault,
    list_stems,
    read_classes,
    show,
)
from keras_resnet.data.annotated.pixels import check_mask, read_headers
from keras_resnet.data.annotated.splits import Masked
from keras_resnet.data.annotated.voc import Pairs, pair_listed
from keras_resnet.data.transforms.letterbox import IGNORED

# fmt: off
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car",
    "cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person",
    "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


def is_voc(root: Path) -> bool:
    """Whether a folder has the masks of Pascal VOC."""
    return (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir()


def find_masks(root: Path) -> dict[str, Pairs]:
    """{split: pairs of a picture and its mask}, empty if there are none."""
    if is_voc(root):
        return pair_listed(root, "Segmentation", "SegmentationClass", ".png")
    found = {}
    for split, names in SPLIT_NAMES.items():
        folders = [root / name for name in names]
        folder = next((f for f in folders if (f / "masks").is_dir()), None)
        if folder and (folder / "images").is_dir():
            found[split] = _pair(folder)
    return found


def _pair(folder: Path) -> Pairs:
    masks = list_stems(folder / "masks", (".png",))
    pictures = list_stems(folder / "images", None)
    if not pictures:
        raise fault(folder / "images", "no pictures", "add some, or remove the split")
    for stem, picture in pictures.items():
        if stem not in masks:
            problem = f"has no mask {show(stem + '.png')} in {folder / 'masks'}"
            raise fault(picture, problem, "add it, or remove the picture")
    return [(picture, masks[stem]) for stem, picture in pictures.items()]


def read_masks(
    root: Path, found: dict[str, Pairs]
) -> tuple[tuple[str, ...], dict[str, Masked]]:
    """Returns the names of the classes, and {split: Masked}."""
    class_names = read_classes(root)
    if class_names is None:
        if not is_voc(root):
            problem = "no such file, which would name the classes"
            raise fault(root / "classes.txt", problem, "write one name a line")
        class_names = VOC_CLASSES
    if len(class_names) > IGNORED:
        problem = f"{len(class_names)} classes, of which a mask can number {IGNORED}"
        raise fault(root / "classes.txt", problem, "remove some")
    splits = {}
    for split, pairs in found.items():
        pictures, masks = zip(*pairs)
        read_headers(check_mask, pictures, masks)
        splits[split] = Masked(pictures, masks, len(class_names))
    return class_names, splits
