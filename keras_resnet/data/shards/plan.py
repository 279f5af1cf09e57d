"""Plans the shards of a data set: which images each has, and in which order."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np

from keras_resnet.data.folders import map_files
from keras_resnet.data.records import Records
from keras_resnet.data.splits import Arrays, Files, Source, Split, hash_json

FORMAT = 1  # the version of the shards; unfinished work of other versions is discarded
# bytes of a resized JPEG per pixel of a square of its short side: 0.5 per pixel, for an
# aspect ratio of 4:3
_RESIZED = 0.67
_RAW = 4  # the same of raw pixels
_INFLATED = 10  # the same of raw pixels per byte of a file


@dataclass(frozen=True, eq=False)
class Shard:
    """A TFRecord file to write, and the numbers of its images in order."""

    file: str
    split: str
    numbers: np.ndarray
    stamp: str  # a hash of the sizes and modification times of the source's files


@dataclass(frozen=True, eq=False)
class Plan:
    """All shards, planned before any is written; the same on every machine."""

    class_names: tuple[str, ...]
    splits: dict[str, Split]
    resize: int
    upright: bool
    background: str
    raw: bool
    shards: tuple[Shard, ...]
    identity: str


def make_plan(
    source: Source,
    seed: int,
    resize: int,
    shard_bytes: int,
    upright: bool = False,
    background: str = "",
    raw: bool = False,
) -> Plan:
    """Distributes the images of each split over shards of about `shard_bytes` bytes."""
    shards = []
    for name, split in source.splits.items():
        stats = _stat_files(split)
        size: float = sum(size for size, _ in stats)
        if isinstance(split, Arrays):
            size = split.images.nbytes
        elif raw and not (isinstance(split, Records) and split.raw):
            size *= _INFLATED
        if resize:
            size = min(size, split.size * resize**2 * (_RAW if raw else _RESIZED))
        count = min(math.ceil(size / shard_bytes), split.size)
        order = split.order(seed, -1).numpy()  # differs from those of training epochs
        for index, numbers in enumerate(np.array_split(order, count)):
            file = f"{name}-{index:05d}-of-{count:05d}.tfrecord"
            own = [stats[i] for i in numbers] if isinstance(split, Files) else stats
            shards.append(Shard(file, name, numbers, hash_json(own)))
    files = [shard.file for shard in shards]
    identity = [FORMAT, source.fingerprint, seed, resize, files]
    if upright or background:
        identity += [upright, background]
    if raw:
        identity += ["raw"]
    return Plan(
        class_names=source.class_names,
        splits=source.splits,
        resize=resize,
        upright=upright,
        background=background,
        raw=raw,
        shards=tuple(shards),
        identity=hash_json(identity),
    )


def _stat_files(split: Split) -> list[tuple[int, int]]:
    """(bytes, modification time in ns) of each file of a split; [] for arrays."""
    files: tuple[str, ...] = ()
    if isinstance(split, Files):
        files = split.files
    elif isinstance(split, Records):
        files = split.shards
    return [(stat.st_size, stat.st_mtime_ns) for stat in map_files(os.stat, files)]
