"""Opens a data set: a folder, a manifest, arrays, or one of tensorflow-datasets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.data.annotated.opening import open_annotated
from keras_resnet.data.folders import find_shards, open_folder
from keras_resnet.data.manifest import MANIFEST, open_manifest
from keras_resnet.data.records import Records, index_records, record_split
from keras_resnet.data.splits import Arrays, Source
from keras_resnet.data.tables import TABLES, open_table
from keras_resnet.errors import DataError

SourceLike = (
    Source | str | os.PathLike[str] | dict[str, Any] | tuple[Any, Any] | list[Any]
)


def open_source(
    source: SourceLike, preflight: bool = True, task: str | None = None
) -> Source:
    """Opens a data set without decoding its images.

    Args:
        source: one of
            - a folder with files like root/train/class/x.jpg and root/val/class/x.jpg
              (or root/validation), with or without the manifest of `validate`;
            - a folder of TFRecord shards with the manifest that `prepare` or
              `validate` wrote;
            - a manifest outside of its folder, a .json file that `validate` wrote;
            - a .csv or .parquet file with the columns path, split, and label or labels;
              with labels, an image may have several (see `tables.open_table`);
            - "tfds:name", a data set of tensorflow-datasets with an image and a label,
              downloaded if necessary;
            - {"train": (images, labels), "val": (images, labels)}, of which one may be
              missing: images uint8 [N, H, W, 3], labels integers from 0, [N] or [N, 1];
              "class_names" may give the names of the classes;
            - a pair (images, labels), used for both splits;
            - a Source, which is returned.
        preflight: whether to check, in a folder without a manifest, that the first
            bytes of every file are those of an image.
        task: "detect" or "segment", for which the source is a folder in one of the
            layouts of `annotated.opening.open_annotated`; None: that of a Source, and
            otherwise "classify".

    Returns:
        The Source.

    Raises:
        DataError: the data set cannot be used. The message names the path, the problem
            and the remedy.
    """
    if isinstance(source, Source):
        if task not in (None, source.task):
            raise DataError(
                f"{source.path}: was opened for task={source.task!r}, not {task!r}; "
                "open it anew"
            )
        return source
    if task not in (None, "classify"):
        if not isinstance(source, str | os.PathLike):
            raise DataError(f"task={task!r}: needs a folder of pictures, not arrays")
        return open_annotated(source, task)
    if isinstance(source, (dict, tuple, list)):
        return _open_arrays(source)
    if str(source).startswith("tfds:"):
        return _open_tfds(str(source))
    root = Path(source)
    if root.suffix == ".json" and root.is_file():
        return open_manifest(root)
    if root.suffix in TABLES and not root.is_dir():
        return open_table(root, preflight)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give one that has train/ and val/")
    if (root / MANIFEST).is_file():
        return open_manifest(root / MANIFEST)
    if find_shards(root):
        raise DataError(
            f"{root}: TFRecords without {MANIFEST}, which would define their labels; "
            "run `keras-resnet validate --first-label 0` (or 1) on it once"
        )
    return open_folder(root, preflight)


def _open_arrays(source: dict[str, Any] | tuple[Any, Any] | list[Any]) -> Source:
    pairs = dict(source) if isinstance(source, dict) else {"train": source}
    names = pairs.pop("class_names", None)
    splits = {name: _array_split(name, pair) for name, pair in pairs.items()}
    if not splits or splits.keys() - {"train", "val"}:
        raise DataError(
            f"arrays: keys {sorted(map(str, pairs))}; must be 'train', 'val' or both"
        )
    largest = max(int(split.labels.max()) for split in splits.values())
    class_names = tuple(map(str, range(largest + 1) if names is None else names))
    if largest >= len(class_names):
        raise DataError(
            f"class_names: {len(class_names)} names, but the largest label is "
            f"{largest}; name every class"
        )
    if not isinstance(source, dict):
        splits["val"] = splits["train"]
    return Source("arrays", class_names, splits.get("train"), splits.get("val"))


def _array_split(name: str, pair: Any) -> Arrays:
    try:
        images, labels = map(np.asarray, pair)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: must be a pair (images, labels)") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise DataError(
            f"{name} images: {images.dtype} {list(images.shape)}; must be RGB, uint8 "
            "[N, H, W, 3] from 0 to 255"
        )
    if labels.shape == (len(images), 1):  # the shape in keras.datasets
        labels = labels[:, 0]
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        raise DataError(
            f"{name} labels: {labels.dtype} {list(labels.shape)}; must be integers "
            f"[{len(images)}], class numbers from 0"
        )
    if not len(images) or labels.min() < 0:
        raise DataError(f"{name}: no pictures, or a label below 0")
    return Arrays(images, labels.astype(np.int64))


def _open_tfds(source: str) -> Source:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"{source}: needs tensorflow-datasets; pip install keras-resnet-d[tfds]"
        ) from error
    try:
        builder = tfds.builder(source.removeprefix("tfds:"))
        builder.download_and_prepare()
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise DataError(f"{source}: {str(error).splitlines()[0]}") from error
    info, features = builder.info, dict(builder.info.features)
    names = getattr(features.get("label"), "names", None)
    if names is None or "image" not in features:
        raise DataError(
            f"{source}: must have an 'image' and a 'label' of named classes; it has "
            f"{sorted(features)}"
        )
    if info.file_format.file_suffix != "tfrecord":
        raise DataError(
            f"{source}: stored as {info.file_format.file_suffix}; prepare it with "
            "file_format='tfrecord'"
        )

    def split(*candidates: str) -> Records | None:
        for name in filter(info.splits.__contains__, candidates):
            shards = [Path(file) for file in info.splits[name].filepaths]
            offsets = [index_records(shard) for shard in shards]
            return record_split(shards, offsets, len(names), keys=("image", "label"))
        return None

    return Source(source, tuple(names), split("train"), split("validation", "test"))
