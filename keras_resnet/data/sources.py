"""Where pictures come from: folders, TFRecords, tensorflow-datasets, arrays."""

from __future__ import annotations

import functools
import itertools
import json
import os
import stat
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.data.records import index_records, record_split
from keras_resnet.data.splits import Arrays, Files, Split, hash_facts
from keras_resnet.data.transforms.decode import LONGEST_MAGIC, sniff
from keras_resnet.errors import DataError

MANIFEST = "dataset.json"
_SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation")}
# what reading a manifest of somebody else's fails with
_ODD = (AttributeError, LookupError, OverflowError, TypeError, ValueError)
# files of a task: to hand over a single one takes longer than to open it
_AT_ONCE = 256
_FAST = 1e-4  # s a file; in the system's cache it takes a tenth of that


@dataclass(frozen=True, eq=False)
class Source:
    """A data set: its classes in the order of the labels, and its splits."""

    path: str
    class_names: tuple[str, ...]
    train: Split | None
    val: Split | None
    # {split: {number: reason}} of the pictures that `validate` could not decode
    bad: dict[str, dict[int, str]] = field(default_factory=dict)
    validated: bool = False  # `bad` is the whole truth
    skipped: tuple[dict, ...] = ()  # what `without_bad` has left out

    def split(self, name: str) -> Split:
        """The split `name`, "train" or "val"; DataError where there is none."""
        split = self.splits.get(name)
        if split is None:
            raise DataError(
                f"{self.path}: no {name} pictures; put them in {self.path}/{name}/, "
                "one folder a class, or split with `keras-resnet prepare --val 0.2`"
            )
        return split

    @property
    def splits(self) -> dict[str, Split]:
        """{"train": ..., "val": ...}, those that there are."""
        both = {"train": self.train, "val": self.val}
        return {name: split for name, split in both.items() if split is not None}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with the classes, the files or their labels."""
        facts = {name: split.facts() for name, split in self.splits.items()}
        return hash_facts([self.class_names, facts])


def open_source(source, preflight: bool = True) -> Source:
    """Looks at a data set without reading its pictures.

    Args:
        source: one of
            - a folder of root/train/class/x.jpg and root/val/class/x.jpg (or
              "validation"), with or without the manifest of `validate`;
            - a folder of TFRecord shards with the manifest that `prepare` or
              `validate` wrote;
            - a manifest that `validate` wrote elsewhere, a .json file;
            - "tfds:name", a data set of tensorflow-datasets with an image and a label,
              downloaded if need be;
            - {"train": (images, labels), "val": (images, labels)}, uint8 [N, H, W, 3]
              and integers from 0 [N] or [N, 1], with "class_names" if they have names;
              or one such pair, which then is both splits, as evaluation needs it;
            - a Source.
        preflight: refuses a folder without a manifest in which a file is no picture by
            its first bytes.

    Raises:
        DataError: naming the path, what is wrong and what to do.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, (dict, tuple, list)):
        return _open_arrays(source)
    if str(source).startswith("tfds:"):
        return _open_tfds(str(source))
    root = Path(source)
    if root.suffix == ".json" and root.is_file():
        return _open_manifest(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give one of train/ and val/ classes")
    if (root / MANIFEST).is_file():
        return _open_manifest(root / MANIFEST)
    if find_shards(root):
        raise DataError(
            f"{root}: TFRecords without {MANIFEST}, so that nothing says what their "
            "labels mean; run `keras-resnet validate --first-label 0` (or 1) on it once"
        )
    return open_folder(root, preflight)


def open_folder(root: Path, preflight: bool = True) -> Source:
    """A folder of train/ and val/ classes; `preflight` reads the files' first bytes."""
    splits = {}
    for split, names in _SPLIT_NAMES.items():
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        splits[split] = list_classes(folder, preflight) if folder else None
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
    return Source(str(root), names, _file_split(train, names), _file_split(val, names))


def list_classes(folder: Path, preflight: bool = True) -> dict[str, list[str]]:
    """{class name: its pictures}, both sorted; hidden files are left out."""
    try:
        classes = {
            entry.name: _list_files(entry)
            for entry in sorted(folder.iterdir())
            if entry.is_dir() and not entry.name.startswith(".")
        }
    except OSError as error:
        raise DataError(
            f"{error.filename}: cannot be read ({error.strerror}); make it readable"
        ) from error
    if not classes:
        raise DataError(f"{folder}: has no class folders; put pictures in one a class")
    for name, files in classes.items():
        if not files:
            raise DataError(
                f"{folder / name}: class without pictures; add some, or remove it"
            )
    every = list(itertools.chain.from_iterable(classes.values()))
    for number, problem in find_foreign(every) if preflight else ():
        raise DataError(
            f"{every[number]}: {problem}; remove it, or skip it with max_bad_examples"
        )
    return classes


def _list_files(folder: Path) -> list[str]:
    prefix = os.path.join(folder, "")  # a Path a file would take a KB, and 10 us
    names = sorted(os.listdir(folder), key=os.path.normcase)  # as Paths are sorted
    return [prefix + name for name in names if not name.startswith(".")]


def find_foreign(files: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(number, why) of the files that cannot be pictures, by their first bytes."""
    for number, problem in enumerate(map_files(preflight_problem, files)):
        if problem:
            yield number, problem


def map_files(function: Callable, *columns: Sequence) -> Iterator:
    """function(file, ...) of each row of the columns, in order.

    On threads where files are slow, as a network's disks answer side by side; where
    they are fast, threads would but hand Python's lock to one another.
    """

    def rows(start):
        return list(map(function, *(c[start : start + _AT_ONCE] for c in columns)))

    starts = iter(range(0, len(columns[0]), _AT_ONCE))
    with ThreadPoolExecutor(16) as pool:
        for start in starts:
            began = time.perf_counter()
            some = rows(start)
            is_slow = time.perf_counter() - began > _AT_ONCE * _FAST
            yield from some
            # and then another look at how fast they are
            for some in pool.map(rows, itertools.islice(starts, 64 * is_slow)):
                yield from some


def preflight_problem(file: str | Path) -> str | None:
    """Why a file cannot be a picture, judged by its first bytes."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe would block
            return "not a file"
        stream = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            head = os.read(stream, LONGEST_MAGIC)
        finally:
            os.close(stream)
    except OSError as error:
        return f"cannot be read ({os.strerror(error.errno or 0)})"
    if not head:
        return "empty"
    if not sniff(head):
        return "not a JPEG, PNG, GIF, BMP or WebP picture"
    return None


def find_shards(root: Path) -> dict[str, list[Path]]:
    """{split: shards} by name: train-00000-of-01024, validation-..., val-1.tfrecord."""
    shards = {
        split: sorted(
            file
            for name in names
            for file in root.glob(f"{name}-*")
            if file.is_file() and ("-of-" in file.name or "tfrecord" in file.name)
        )
        for split, names in _SPLIT_NAMES.items()
    }
    return {split: files for split, files in shards.items() if files}


def _file_split(classes, names) -> Files | None:
    if classes is None:
        return None
    labels = (itertools.repeat(n, len(classes[name])) for n, name in enumerate(names))
    return Files(
        tuple(itertools.chain.from_iterable(classes[name] for name in names)),
        tuple(itertools.chain.from_iterable(labels)),
    )


class _Listed:
    """Files as a manifest lists them, in columns: a million dicts would take a GB."""

    def __init__(self):
        self.files: list[str] = []  # below the root
        self.sizes, self.labels = array("q"), array("q")

    def add(self, entry: dict):
        size = entry["bytes"]
        self.files.append(entry["file"])
        self.sizes.append(-1 if size is None else size)
        self.labels.append(entry["label"])

    def extend(self, other: _Listed):
        for ours, theirs in zip(vars(self).values(), vars(other).values()):
            ours.extend(theirs)


def _read_manifest(file: Path) -> tuple[dict, list[_Listed]]:
    """A manifest, in whose lists of files {"run": n} stands for the n-th of the runs.

    `validate` writes an entry a line, and of those runs are made as they are read.
    """
    rest: list[str] = []
    runs: list[_Listed] = []
    run, decode = None, json.JSONDecoder().raw_decode
    with open(file) as lines:
        for line in lines:
            entry, end = decode(line) if line.startswith('{"file"') else ({}, 0)
            if "label" not in entry or line[end:] != ",\n":
                rest.append(line)
                run = None
                continue
            if run is None:
                rest.append(f'{{"run": {len(runs)}}},\n')
                runs.append(run := _Listed())
            run.add(entry)
    return json.loads("".join(rest)), runs


def _open_manifest(file: Path) -> Source:
    try:
        manifest, runs = _read_manifest(file)
        root = Path(manifest.get("root", file.parent))
        if not root.is_dir():
            raise DataError(
                f"{file}: is of {root}, where no folder is; get it back, or run "
                f"`keras-resnet validate --manifest {file}` where the pictures are now"
            )
        names = tuple(manifest["class_names"])
        splits, bad = {}, {}
        for name, facts in manifest["splits"].items():
            if "shards" in facts:
                splits[name] = _listed_records(root, facts, manifest, len(names))
            else:
                splits[name] = _listed_files(root, facts["files"], runs)
            bad[name] = {entry["number"]: entry["reason"] for entry in facts["bad"]}
            if facts["records"] != splits[name].size:
                raise KeyError(f"{facts['records']} records announced")
    except _ODD as error:
        if isinstance(error, DataError):
            raise
        advice = "give a folder, or what `keras-resnet validate --manifest` wrote"
        if file.name == MANIFEST:
            advice = "remove it, and run `keras-resnet validate` or `prepare` again"
        raise DataError(
            f"{file}: not a manifest of ours ({error!r}); {advice}"
        ) from error
    if any(isinstance(split, Files) for split in splits.values()):
        _check_nothing_new(file, root, splits)
    train, val = splits.get("train"), splits.get("val")
    return Source(str(root), names, train, val, bad, validated=manifest["validated"])


def _listed_records(root, facts, manifest, class_count):
    shards = facts["shards"]
    for shard in shards:
        _check_listed(root / shard["file"], shard["bytes"])
    return record_split(
        [root / shard["file"] for shard in shards],
        [shard["offsets"] for shard in shards],
        class_count=class_count,
        first_label=manifest["first_label"],
    )


def _listed_files(root, entries, runs):
    listed = _Listed()
    for entry in entries:
        if "run" in entry:
            listed.extend(runs[entry["run"]])
        else:
            listed.add(entry)
    prefix = str(root / "_")[:-1]  # as Path writes it: "." is none
    files = tuple(prefix + file.replace("/", os.sep) for file in listed.files)
    for _ in map_files(_check_listed, files, listed.sizes):
        pass
    return Files(files, tuple(listed.labels))


def _check_listed(file: str | Path, size: int):
    if size < 0:  # what is no file is listed as bad: nobody reads it
        return
    try:
        found = os.stat(file)
    except OSError:
        found = None
    if not found or not stat.S_ISREG(found.st_mode) or found.st_size != size:
        raise DataError(
            f"{file}: missing, or not the {size} bytes that {MANIFEST} says; "
            "get it back, or run `keras-resnet validate` (or `prepare`) again"
        )


def _check_nothing_new(manifest, root, splits):
    for name, split in open_folder(root, preflight=False).splits.items():
        if name in splits and split.files == splits[name].files:  # type: ignore[attr-defined]
            continue
        listed = {file for split in splits.values() for file in split.files}
        for file in split.files:  # type: ignore[attr-defined]
            if file not in listed:
                raise DataError(
                    f"{file}: not in {manifest}; run `keras-resnet validate` again"
                )


def _open_arrays(source) -> Source:
    whole = isinstance(source, dict)
    parts: dict[str, Any] = dict(source) if whole else {"train": source}
    names = parts.pop("class_names", None)
    splits = {name: _array_split(name, pair) for name, pair in parts.items()}
    if not splits or splits.keys() - {"train", "val"}:
        raise DataError(
            f"arrays under {sorted(map(str, parts))}: must be under 'train' and 'val'"
        )
    most = max(int(split.classes.max()) for split in splits.values())
    names = tuple(map(str, names if names is not None else range(most + 1)))
    if most >= len(names):
        raise DataError(
            f"class_names: {len(names)} names, but labels up to {most}; name every one"
        )
    train = splits.get("train")
    return Source("arrays", names, train, splits.get("val") if whole else train)


def _array_split(name, pair) -> Arrays:
    try:
        images, labels = map(np.asarray, pair)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: must be (images, labels)") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise DataError(
            f"{name} images: {images.dtype} {list(images.shape)}; must be RGB, uint8 "
            "[N, H, W, 3] from 0 to 255"
        )
    if labels.shape == (len(images), 1):  # as keras.datasets has them
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

    def split(*candidates: str):
        for name in filter(info.splits.__contains__, candidates):
            shards: Sequence[Path] = [Path(p) for p in info.splits[name].filepaths]
            return record_split(
                shards,
                [index_records(shard) for shard in shards],
                class_count=len(names),
                keys=("image", "label"),
            )
        return None

    return Source(source, tuple(names), split("train"), split("validation", "test"))
