"""Validation of boxes and masks: what a data set has, and what is wrong with it."""

from __future__ import annotations

import os
from typing import Any

from keras_resnet.data.checks.bad import find_bad
from keras_resnet.data.sources import open_source


def check_annotated(root: str | os.PathLike[str], task: str) -> dict[str, Any]:
    """Opens a data set for detection or segmentation and decodes all of its files.

    No manifest is written: the annotations are read whenever the data is opened.

    Args:
        root: a folder in a layout of `annotated.opening.open_annotated`.
        task: "detect" or "segment".

    Returns:
        {"path", "task", "classes": names, "counts": {split: {what: how many}}, "notes":
        lines about annotations that are clipped or left out, "bad": [{"split", "where",
        "reason"}, ...] of pictures and masks that cannot be decoded}.

    Raises:
        DataError: the annotations cannot be used at all.
    """
    source = open_source(root, task=task)
    bad = [
        {"split": name, "where": split.where(number), "reason": reason}
        for name, split in source.splits.items()
        for number, reason in find_bad(split).items()
    ]
    return {
        "path": source.path,
        "task": task,
        "classes": list(source.class_names),
        "counts": source.counts,
        "notes": list(source.notes),
        "bad": bad,
    }
