"""Where pictures come from: a folder of classes, or TFRecords with their manifest."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_resnet.data.decode import LONGEST_MAGIC, sniff

MANIFEST = "dataset.json"
_WINDOW = 4096  # records
_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "validation")}


class DataError(ValueError):
    """Data that cannot be used, with its path and what to do."""


@dataclass(frozen=True)
class Split:
    """The pictures of training or validation: files with labels, or record shards."""

    size: int  # pictures
    files: tuple[str, ...]
    labels: tuple[int, ...] | None  # one a file; None: `files` are shards
    first_label: int = 0  # what the shards call class 0

    def ordered(self) -> tf.data.Dataset:
        """(encoded bytes, label int64), each picture once, in a fixed order."""
        if self.labels is None:
            return self._parsed(tf.data.TFRecordDataset(list(self.files)))
        return self._read(np.arange(self.size))

    def shuffled(self, seed, epoch) -> tf.data.Dataset:
        """The same in an order that (seed, epoch) determine; epoch may be a tensor."""
        key = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(self.files), dtype=tf.int64), key
        )
        if self.labels is not None:
            return self._read(order)
        # shards in a random order, read side by side, and windows of records shuffled:
        # Dataset.shuffle would let the process's global seed in
        shards = tf.data.Dataset.from_tensor_slices(tf.gather(list(self.files), order))

        def shuffle_window(index, records):
            fold = tf.random.experimental.stateless_fold_in(key, index)
            return tf.random.experimental.stateless_shuffle(records, fold)

        windows = (
            shards.interleave(tf.data.TFRecordDataset, cycle_length=16)
            .batch(_WINDOW)
            .enumerate()
            .map(shuffle_window)
        )
        return self._parsed(windows.unbatch())

    def _read(self, order):
        files, labels = tf.constant(self.files), tf.constant(self.labels, tf.int64)
        return tf.data.Dataset.from_tensor_slices(order).map(
            lambda i: (tf.io.read_file(files[i]), labels[i]),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def _parsed(self, records):
        features = {
            "image/encoded": tf.io.FixedLenFeature([], tf.string),
            "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        }

        def parse(record):
            example = tf.io.parse_single_example(record, features)
            return (
                example["image/encoded"],
                example["image/class/label"] - self.first_label,
            )

        return records.map(parse, num_parallel_calls=tf.data.AUTOTUNE)


@dataclass(frozen=True)
class Source:
    """A data set: its classes in the order of the labels, and its splits."""

    path: str
    class_names: tuple[str, ...]
    train: Split | None
    val: Split | None

    def split(self, name: str) -> Split:
        """The split `name`, "train" or "val"; DataError where there is none."""
        split = {"train": self.train, "val": self.val}[name]
        if split is None:
            raise DataError(
                f"{self.path}: no {name} pictures; put them in {self.path}/{name}/, "
                "one folder a class, or split with `keras-resnet prepare --val 0.2`"
            )
        return split

    @property
    def fingerprint(self) -> str:
        """Changes with the classes, the files or their labels."""
        splits = [self.train, self.val]
        facts = [
            self.class_names,
            [s and (s.size, s.labels, [Path(f).name for f in s.files]) for s in splits],
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def open_source(source) -> Source:
    """Looks at a data set without reading its pictures.

    Args:
        source: a folder of root/train/class/x.jpg and root/val/class/x.jpg (or
            "validation"), a folder that `prepare` wrote, or a Source.

    Raises:
        DataError: naming the path, what is wrong and what to do.
    """
    if isinstance(source, Source):
        return source
    root = Path(source)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give one of train/ and val/ classes")
    if (root / MANIFEST).is_file():
        return _open_records(root)
    splits = {}
    for split, names in _SPLIT_FOLDERS.items():
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        splits[split] = list_classes(folder) if folder else None
    if not any(splits.values()):
        raise DataError(
            f"{root}: has neither train/ nor val/; give a folder of them, or split "
            "this one with `keras-resnet prepare --val 0.2`"
        )
    return folder_source(root, splits["train"], splits["val"])


def folder_source(root, train, val) -> Source:
    """A Source of {class name: files} for each split, checked."""
    names = tuple(train if train is not None else val)
    if train is not None and val is not None:
        for extra in val.keys() - train.keys():
            raise DataError(
                f"{root}: class {extra!r} has no training pictures; add some"
            )
        for extra in train.keys() - val.keys():
            raise DataError(
                f"{root}: class {extra!r} has no validation pictures; add some, or "
                "remove the class"
            )
    return Source(str(root), names, _split(train, names), _split(val, names))


def list_classes(folder: Path) -> dict[str, list[Path]]:
    """{class name: its pictures}, both sorted; hidden files are left out."""
    classes = {
        entry.name: sorted(
            file for file in entry.iterdir() if not file.name.startswith(".")
        )
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    if not classes:
        raise DataError(f"{folder}: has no class folders; put pictures in one a class")
    for name, files in classes.items():
        if not files:
            raise DataError(
                f"{folder / name}: class without pictures; add some, or remove it"
            )
    every = [file for files in classes.values() for file in files]
    with ThreadPoolExecutor(16) as pool:
        for file, problem in zip(every, pool.map(_problem, every)):
            if problem:
                raise DataError(f"{file}: {problem}")
    return classes


def _problem(file: Path) -> str | None:
    """Why a file cannot be a picture, judged by its first bytes."""
    try:
        with open(file, "rb") as stream:
            head = stream.read(LONGEST_MAGIC)
    except OSError as error:
        return f"cannot be read ({os.strerror(error.errno or 0)}); remove it"
    if not sniff(head):
        return "not a JPEG, PNG, GIF, BMP or WebP picture; remove it"
    return None


def _split(classes, names) -> Split | None:
    if classes is None:
        return None
    pairs = [
        (str(file), label) for label, name in enumerate(names) for file in classes[name]
    ]
    files, labels = zip(*pairs)
    return Split(len(files), files, labels)


def _open_records(root: Path) -> Source:
    try:
        manifest = json.loads((root / MANIFEST).read_text())
        splits = {}
        for name, split in manifest["splits"].items():
            for shard in split["shards"]:
                file = root / shard["file"]
                if not file.is_file() or file.stat().st_size != shard["bytes"]:
                    raise DataError(
                        f"{file}: missing, or not the {shard['bytes']} bytes that "
                        f"{MANIFEST} says; run `keras-resnet prepare` again"
                    )
            splits[name] = Split(
                size=split["records"],
                files=tuple(str(root / shard["file"]) for shard in split["shards"]),
                labels=None,
                first_label=manifest["first_label"],
            )
        names = tuple(manifest["class_names"])
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{root / MANIFEST}: not a manifest of ours ({error!r}); run "
            "`keras-resnet prepare` again"
        ) from error
    return Source(str(root), names, splits.get("train"), splits.get("val"))
