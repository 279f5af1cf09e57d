"""Folders of pictures, a class each: listed, and checked by their first bytes."""

from __future__ import annotations

import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from keras_resnet.data.splits import Files, Source
from keras_resnet.data.transforms.decode import LONGEST_MAGIC, sniff
from keras_resnet.errors import DataError

SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation")}
_CHUNK = 256  # files a task: to hand over a single one takes longer than to open it
_FAST = 1e-4  # s a file; in the system's cache it takes a tenth of that


def open_folder(root: Path, preflight: bool = True) -> Source:
    """A folder of train/ and val/ classes; `preflight` reads the files' first bytes."""
    splits = {}
    for split, names in SPLIT_NAMES.items():
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        splits[split] = list_classes(folder, preflight) if folder else None
    if not any(splits.values()):
        raise DataError(
            f"{root}: has neither train/ nor val/; give a folder of them, or split "
            "this one with `keras-resnet prepare --val 0.2`"
        )
    return folder_source(root, splits["train"], splits["val"])


def folder_source(
    root: str | os.PathLike[str],
    train: dict[str, list[str]] | None,
    val: dict[str, list[str]] | None,
) -> Source:
    """A Source of {class name: files} for each split; both must have all classes."""
    class_names = tuple(train or val or ())
    if train is not None and val is not None:
        for name in sorted(train.keys() ^ val.keys()):
            missing = "validation" if name in train else "training"
            raise DataError(
                f"{root}: class {name!r} has no {missing} pictures; add some, or "
                "remove the class"
            )

    def split(classes: dict[str, list[str]] | None) -> Files | None:
        if classes is None:
            return None
        files = [classes[name] for name in class_names]
        labels = (itertools.repeat(n, len(some)) for n, some in enumerate(files))
        chain = itertools.chain.from_iterable
        return Files(tuple(chain(files)), tuple(chain(labels)))

    return Source(str(root), class_names, split(train), split(val))


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


def find_shards(root: Path) -> dict[str, list[Path]]:
    """{split: shards} by name: train-00000-of-01024, validation-..., val-1.tfrecord."""
    shards = {
        split: sorted(
            file
            for name in names
            for file in root.glob(f"{name}-*")
            if file.is_file() and ("-of-" in file.name or "tfrecord" in file.name)
        )
        for split, names in SPLIT_NAMES.items()
    }
    return {split: files for split, files in shards.items() if files}


def find_foreign(files: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(number, reason) of the files that cannot be pictures, by their first bytes."""
    for number, problem in enumerate(map_files(preflight_problem, files)):
        if problem:
            yield number, problem


def preflight_problem(file: str | os.PathLike[str]) -> str | None:
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


def map_files(function: Callable, *columns: Sequence) -> Iterator[Any]:
    """function(file, ...) of each row of the columns, in order.

    It uses threads where opening a file is slow, as on a network's disks, which answer
    in parallel. Where it is fast, threads would only compete for Python's lock.
    """

    def apply(start: int) -> list:
        return list(map(function, *(c[start : start + _CHUNK] for c in columns)))

    starts = iter(range(0, len(columns[0]), _CHUNK))
    with ThreadPoolExecutor(16) as pool:
        for start in starts:
            began = time.perf_counter()
            results = apply(start)
            is_slow = time.perf_counter() - began > _CHUNK * _FAST
            yield from results
            # and then the speed is measured again
            for results in pool.map(apply, itertools.islice(starts, 64 * is_slow)):
                yield from results
