"""`prepare`: writes a source as TFRecord shards and a manifest, resumably."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.data.checks.report import describe_sizes
from keras_resnet.data.folders import folder_source, list_classes
from keras_resnet.data.manifest import MANIFEST
from keras_resnet.data.shards.on_ray import write_on_ray
from keras_resnet.data.shards.plan import Plan, make_plan
from keras_resnet.data.shards.writing import (
    WORK,
    is_written,
    read_summary,
    stored_pictures,
    write_shard,
)
from keras_resnet.data.sources import SourceLike, open_source
from keras_resnet.data.splits import Source
from keras_resnet.data.transforms.upright import parse_colour
from keras_resnet.errors import DataError
from keras_resnet.files import atomic_write, sync
from keras_resnet.files import lock as take_lock
from keras_resnet.ray import connected

_LOCK = ".plan"  # contains the plan's identity; locked by the process that writes


def prepare(
    source: SourceLike,
    destination: str | os.PathLike[str],
    val: float = 0.0,
    seed: int = 0,
    resize: int = 0,
    ray: str | None = None,
    progress: Callable[[Iterable, int], Iterable] = lambda pictures, total: pictures,
    shard_bytes: int = 128 * 2**20,
    upright: bool = False,
    background: str = "",
    raw: bool = False,
) -> Source:
    """Writes a data set as TFRecord shards, in random order.

    Image files are stored unchanged, arrays as PNG. Images that `resize` shrinks become
    JPEGs; those that only `upright` or `background` changes become PNGs, which are
    lossless but large for photographs. The shards are written to `.NAME.partial` next
    to the destination, and this folder is renamed at the end. After an interruption,
    the same call skips the finished shards. All cores are used.

    Args:
        source: what `open_source` takes; with `val`, a folder of classes.
        destination: a folder that does not exist yet.
        val: the fraction of each class to hold out for validation, at least one image;
            0 keeps the splits of the source.
        seed: the seed of that selection and of the order.
        resize: the short side in pixels to which larger images are shrunk, with
            Pillow's bicubic filter. They are stored as RGB JPEGs of quality 92 with
            4:2:0 chroma subsampling. All images are decoded, and thereby checked.
            0: no resizing.
        ray: the address of a Ray cluster whose workers write the shards, such as
            "auto"; "local" starts Ray on this machine; None does not use Ray. The
            workers need this package, and the source and destination at the same paths.
        progress: a function (images, their number) -> an iterable of the same images,
            such as a progress bar.
        shard_bytes: the approximate size of a shard in bytes.
        upright: whether to rotate and mirror images by their EXIF orientation.
        background: a color, such as "white" or "#ffffff", over which images with alpha
            are composited; with "", alpha is dropped when images are read.
        raw: whether to store decoded pixels, three bytes each, in place of files. They
            take several times the space and no decoding: for data sets that fit into
            memory or on a fast disk, best with `resize`, which then encodes no JPEGs.

    Returns:
        The Source of the destination.

    Raises:
        DataError: the source, an image or an argument cannot be used, the destination
            exists, or another process is writing it.
        RayError: Ray is not installed, or does not answer.
    """
    destination = Path(destination)
    _check_new(destination)
    for name, value in (("seed", seed), ("resize", resize)):
        if value < 0:
            raise DataError(f"{name}={value}: must be 0 or more")
    if background:
        parse_colour(background)
    with contextlib.ExitStack() as held:
        if ray is not None:
            held.enter_context(connected(ray))
        opened = _hold_out(source, val, seed) if val else open_source(source)
        opened.check_one_label("prepare")
        _check_good(opened)
        plan = make_plan(opened, seed, resize, shard_bytes, upright, background, raw)
        folder = held.enter_context(_partial_folder(destination, plan))
        if ray is not None:
            write_on_ray(folder, plan)
        todo = [shard for shard in plan.shards if not is_written(folder, shard)]
        total = sum(len(shard.numbers) for shard in todo)
        pictures = iter(progress(stored_pictures(plan, todo), total))
        for shard in todo:
            write_shard(folder, plan, shard, pictures)
        next(pictures, None)  # exhausts the iterator, so that a progress bar ends
    return open_source(destination)


def _check_new(destination: Path) -> None:
    if destination.exists():
        raise DataError(f"{destination}: exists; remove it, or choose another folder")


def _check_good(source: Source) -> None:
    for name, bad in source.bad.items():
        for number, reason in bad.items():
            raise DataError(
                f"{source.splits[name].where(number)}: cannot be read ({reason}); "
                "repair or remove it, and run `keras-resnet validate` again"
            )


def _hold_out(source: SourceLike, val: float, seed: int) -> Source:
    if not 0 < val < 1:
        raise DataError(f"val={val}: must be in (0, 1), as a fraction to hold out")
    if not isinstance(source, (str, os.PathLike)) or not Path(source).is_dir():
        raise DataError(
            f"val={val}: can only split a folder of classes, not {source!s:.80}"
        )
    train_classes: dict[str, list[str]] = {}
    val_classes: dict[str, list[str]] = {}
    for index, (name, files) in enumerate(list_classes(Path(source)).items()):
        held = max(1, round(val * len(files)))
        if held >= len(files):
            raise DataError(
                f"{Path(source) / name}: {len(files)} picture(s) cannot be split with "
                f"val={val}; add some"
            )
        order = np.random.default_rng([seed, index]).permutation(len(files))
        val_classes[name] = [files[i] for i in sorted(order[:held])]
        train_classes[name] = [files[i] for i in sorted(order[held:])]
    return folder_source(source, train_classes, val_classes)


@contextlib.contextmanager
def _partial_folder(destination: Path, plan: Plan) -> Iterator[Path]:
    """Context manager of a locked folder, which is renamed to the destination."""
    import fcntl  # not on Windows, where the rest of the package works

    folder = destination.with_name(f".{destination.name}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "a+") as lock:
        try:
            take_lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{destination}: another process is writing it; wait until that ends"
            ) from error
        _check_new(destination)  # that process may just have finished
        lock.seek(0)
        if lock.read() != plan.identity:
            shutil.rmtree(folder / WORK, ignore_errors=True)
            for file in folder.glob("*.tfrecord"):
                file.unlink()
            lock.truncate(0)
            lock.write(plan.identity)
            lock.flush()
        (folder / WORK).mkdir(exist_ok=True)
        for killed in (folder / WORK).glob("tmp*"):
            shutil.rmtree(killed)
        yield folder
        with atomic_write(folder / MANIFEST) as partial:
            partial.write_text(json.dumps(_manifest(folder, plan), indent=1))
        os.replace(folder, destination)
        sync(destination.parent)
        shutil.rmtree(destination / WORK)
        (destination / _LOCK).unlink()


def _manifest(folder: Path, plan: Plan) -> dict[str, Any]:
    splits = {}
    for name, group in itertools.groupby(plan.shards, lambda shard: shard.split):
        summaries = [read_summary(folder, shard) for shard in group]
        sizes = np.concatenate([summary["sizes"] for summary in summaries])
        splits[name] = {
            "records": len(sizes),
            "bad": [],
            "sizes": describe_sizes(sizes),
            "shards": [summary["shard"] for summary in summaries],
        }
    return {
        "validated": False,
        "class_names": list(plan.class_names),
        "first_label": 0,
        **({"raw": True} if plan.raw else {}),
        "splits": splits,
    }
