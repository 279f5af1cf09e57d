"""Opens a data set for object detection or semantic segmentation."""

from __future__ import annotations

import os
from pathlib import Path

from keras_resnet.data.annotated.boxes import make_split
from keras_resnet.data.annotated.coco import find_coco, read_coco
from keras_resnet.data.annotated.listing import fault
from keras_resnet.data.annotated.masks import find_masks, read_masks
from keras_resnet.data.annotated.voc import find_voc, read_voc
from keras_resnet.data.splits import Source
from keras_resnet.errors import DataError

_LAYOUTS = {
    "detect": (
        "COCO (train.json, annotations/instances_train*.json or "
        "train/_annotations.coco.json) or Pascal VOC (JPEGImages/, Annotations/ and "
        "ImageSets/Main/train.txt, or train/ with x.xml beside x.jpg)"
    ),
    "segment": (
        "train/images/x.jpg with train/masks/x.png and classes.txt, or Pascal VOC "
        "(JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/train.txt)"
    ),
}


def open_annotated(root: str | os.PathLike[str], task: str) -> Source:
    """Opens a data set, reading the header of each picture but not its pixels.

    Args:
        root: a folder. The same names as for train are looked for with val, and with
            validation and valid where the layout is not VOC's own. One of the splits
            may be missing. If several layouts fit, the first of the following counts.
            For "detect":
            - COCO: the annotations in root/train.json,
              root/annotations/instances_train*.json or
              root/train/_annotations.coco.json; the pictures in the first of the
              folders root/train, root/train2017 (the rest of the name of
              instances_train2017.json), both of them in root/images, root/images and
              root that holds the first picture. Labels follow the category ids.
            - Pascal VOC: root/JPEGImages/x.jpg, root/Annotations/x.xml and
              root/ImageSets/Main/train.txt; or root/train/x.xml beside
              root/train/x.jpg. The classes are the lines of root/classes.txt, or else
              the sorted names of both splits.
            For "segment":
            - Pascal VOC: root/JPEGImages/x.jpg, root/SegmentationClass/x.png and
              root/ImageSets/Segmentation/train.txt; the classes are VOC's 21, or those
              in root/classes.txt.
            - root/train/images/x.jpg, root/train/masks/x.png and root/classes.txt, with
              the names in the order of the numbers.
        task: "detect" or "segment".

    Returns:
        A Source of `Boxed` or `Masked` splits. Pictures without boxes are in it. Boxes
        are clipped to their pictures; those that are empty, outside or of no class are
        left out. `counts` says how many, and `notes` names the first five of each kind
        and split.

    Raises:
        DataError: the data set cannot be used. The message is one line with the file,
            the picture or annotation, the value and the remedy.
    """
    if task not in _LAYOUTS:
        raise DataError(f"task={task!r}: must be 'detect' or 'segment'")
    folder = Path(root)
    if not folder.is_dir():
        raise fault(root, "no such folder", f"give one with {_LAYOUTS[task]}")
    try:
        source = _open_boxes(folder) if task == "detect" else _open_masks(folder)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise fault(error.filename, problem, "make it readable") from error
    if source is None:
        raise fault(root, f"not a data set to {task}", f"give {_LAYOUTS[task]}")
    return source


def _open_boxes(root: Path) -> Source | None:
    if files := find_coco(root):
        class_names, found = read_coco(root, files)
    elif pairs := find_voc(root):
        class_names, found = read_voc(root, pairs)
    else:
        return None
    made = {name: make_split(annotations) for name, annotations in found.items()}
    splits = {name: split for name, (split, _, _) in made.items()}
    return Source(
        str(root),
        class_names,
        splits.get("train"),
        splits.get("val"),
        task="detect",
        counts={name: counts for name, (_, counts, _) in made.items()},
        notes=tuple(note for _, _, notes in made.values() for note in notes),
    )


def _open_masks(root: Path) -> Source | None:
    pairs = find_masks(root)
    if not pairs:
        return None
    class_names, splits = read_masks(root, pairs)
    return Source(
        str(root),
        class_names,
        splits.get("train"),
        splits.get("val"),
        task="segment",
        counts={name: {"pictures": split.size} for name, split in splits.items()},
    )
