"""Lists folders of images, one per class, and checks the first bytes of the files."""

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
_CHUNK = 256  # files in a task; dispatching one file takes longer than opening it
_FAST = 1e-4  # seconds per file; a cached file takes a tenth of that


def open_folder(root: Path, preflight: bool = True) -> Source:
    """The Source of a folder with train/ and val/, each with one folder per class.

    Args:
        root: the folder.
        preflight: whether to check the first bytes of every file.

    Raises:
        DataError: a folder is missing, empty or unreadable; or with `preflight`, a file
            is not an image.
    """
    splits = {}
    for split, names in SPLIT_NAMES.items():
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        splits[split] = list_classes(folder, preflight) if folder else None
    if not any(splits.values()):
        raise DataError(
            f"{root}: has neither train/ nor val/; give a folder that contains them, "
            "or split this one with `keras-resnet prepare --val 0.2`"
        )
    return folder_source(root, splits["train"], splits["val"])


def folder_source(
    root: str | os.PathLike[str],
    train: dict[str, list[str]] | None,
    val: dict[str, list[str]] | None,
) -> Source:
    """The Source of {class name: files} for each split; both need the same classes."""
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
        labels = (itertools.repeat(n, len(group)) for n, group in enumerate(files))
        chain = itertools.chain.from_iterable
        return Files(tuple(chain(files)), tuple(chain(labels)))

    return Source(str(root), class_names, split(train), split(val))


def list_classes(folder: Path, preflight: bool = True) -> dict[str, list[str]]:
    """Returns {class name: files}, both sorted, without hidden files and folders."""
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
        raise DataError(
            f"{folder}: has no class folders; put the pictures of each class in one"
        )
    for name, files in classes.items():
        if not files:
            raise DataError(
                f"{folder / name}: class has no pictures; add some, or remove it"
            )
    all_files = list(itertools.chain.from_iterable(classes.values()))
    for number, problem in find_foreign(all_files) if preflight else ():
        raise DataError(
            f"{all_files[number]}: {problem}; remove it, or allow bad pictures with "
            "max_bad_examples"
        )
    return classes


def _list_files(folder: Path) -> list[str]:
    prefix = os.path.join(folder, "")  # one Path per file would take 1 KB and 10 us
    names = sorted(os.listdir(folder), key=os.path.normcase)  # the order of Paths
    return [prefix + name for name in names if not name.startswith(".")]


def find_shards(root: Path) -> dict[str, list[Path]]:
    """Returns {split: TFRecord shards}, found by their names.

    Examples: train-00000-of-01024, validation-00000-of-00128, val-1.tfrecord.
    """
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
    """Yields (index, reason) of the files that are not images by their first bytes."""
    for number, problem in enumerate(map_files(preflight_problem, files)):
        if problem:
            yield number, problem


def preflight_problem(file: str | os.PathLike[str]) -> str | None:
    """The reason why a file is not an image by its first bytes, or None."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # opening a named pipe would block
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
    """Like map(function, *columns), but uses threads while opening files is slow.

    Network file systems are slow but answer in parallel. With a fast disk, threads
    would only compete for Python's global interpreter lock.
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
            # the speed is measured again after these
            for results in pool.map(apply, itertools.islice(starts, 64 * is_slow)):
                yield from results
