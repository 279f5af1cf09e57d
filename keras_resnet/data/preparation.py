"""Any source -> sharded TFRecords and their manifest: parallel, resumable, atomic."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from keras_resnet.data.checks.report import describe_sizes
from keras_resnet.data.shards import (
    WORK,
    Plan,
    is_written,
    make_plan,
    read_facts,
    stored_pictures,
    write_shard,
)
from keras_resnet.data.sources import (
    MANIFEST,
    Source,
    folder_source,
    list_classes,
    open_source,
)
from keras_resnet.data.transforms.upright import parse_colour
from keras_resnet.errors import DataError
from keras_resnet.files import atomic_write, sync
from keras_resnet.files import lock as take_lock

_LOCK = ".plan"  # says of which plan the folder is, and is locked by who writes there
_PICKLE = "plan.pickle"


def prepare(
    source,
    destination,
    val: float = 0.0,
    seed: int = 0,
    resize: int = 0,
    beam: str | None = None,
    progress: Callable[[Iterable, int], Iterable] = lambda pictures, total: pictures,
    shard_bytes: int = 128 * 2**20,
    upright: bool = False,
    background: str = "",
) -> Source:
    """Writes pictures as shards of TFRecords, in an order that mixes the classes.

    Files keep their bytes and arrays become PNG, unless `resize` shrinks them, or
    `upright` or `background` changes them: those become PNG, which is exact, and large
    for photographs that are not resized. Work goes on in `.NAME.partial` beside the
    destination, which takes its name when it is whole; the same call again skips the
    shards that are there. All cores work.

    Args:
        source: what `open_source` takes; with `val`, a folder of classes.
        destination: a folder that does not exist yet.
        val: fraction of each class that becomes validation, at least one picture;
            0 takes the source's own split.
        seed: of that split and of the order.
        resize: pictures whose short side is longer are shrunk to so many pixels, as
            Pillow's bicubic filter does, and stored as RGB JPEGs of quality 92 with
            chroma halved both ways. All pictures are decoded, and so checked. 0: none.
        beam: options of an Apache Beam pipeline whose workers write the shards, as
            "--runner=FlinkRunner --parallelism=64"; "" takes its defaults. The workers
            need this package, and source and destination under the same paths.
        progress: (pictures, their number) -> the same pictures, as a progress bar does.
        shard_bytes: about so many in a shard.
        upright: turns and mirrors pictures as their EXIF orientation says.
        background: a colour, as "white" or "#ffffff", over which pictures with alpha
            are composited; "": alpha is dropped when they are read.

    Raises:
        DataError: a bad source or picture, by its name; or `destination` exists, or
            another process is writing it.
    """
    destination = Path(destination)
    _check_new(destination)
    for name, value in (("seed", seed), ("resize", resize)):
        if value < 0:
            raise DataError(f"{name}={value}: must be 0 or more")
    if background:
        parse_colour(background)
    pipeline = None if beam is None else _open_pipeline(beam)
    source = _hold_out(source, val, seed) if val else open_source(source)
    _check_good(source)
    plan = make_plan(source, seed, resize, shard_bytes, upright, background)
    with _partial_folder(destination, plan) as folder:
        if pipeline:
            _write_on_beam(pipeline, folder, plan)
        todo = [shard for shard in plan.shards if not is_written(folder, shard)]
        total = sum(len(shard.numbers) for shard in todo)
        pictures = iter(progress(stored_pictures(plan, todo), total))
        for shard in todo:
            write_shard(folder, plan, shard, pictures)
        next(pictures, None)  # shows a bar that this was the last
    return open_source(destination)


def _check_new(destination):
    if destination.exists():
        raise DataError(f"{destination}: exists; remove it, or choose another folder")


def _check_good(source):
    for name, bad in source.bad.items():
        for number, reason in bad.items():
            raise DataError(
                f"{source.splits[name].where(number)}: cannot be read ({reason}); "
                "repair or remove it, and run `keras-resnet validate` again"
            )


def _hold_out(source, val, seed):
    if not 0 < val < 1:
        raise DataError(f"val={val}: must be in (0, 1), the fraction to hold out")
    if not isinstance(source, (str, os.PathLike)) or not Path(source).is_dir():
        raise DataError(f"val={val}: splits a folder of classes, not {source!s:.80}")
    train_classes: dict[str, list[str]] = {}
    val_classes: dict[str, list[str]] = {}
    for index, (name, files) in enumerate(list_classes(Path(source)).items()):
        held = max(1, round(val * len(files)))
        if held >= len(files):
            raise DataError(
                f"{Path(source) / name}: {len(files)} picture(s) cannot be split; "
                "add some"
            )
        order = np.random.default_rng([seed, index]).permutation(len(files))
        val_classes[name] = [files[i] for i in sorted(order[:held])]
        train_classes[name] = [files[i] for i in sorted(order[held:])]
    return folder_source(source, train_classes, val_classes)


@contextlib.contextmanager
def _partial_folder(destination, plan):
    """The folder where work goes on, ours alone; at the end it is the destination."""
    import fcntl  # not on Windows, where the rest of the package works

    folder = destination.with_name(f".{destination.name}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "a+") as lock:
        try:
            take_lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{destination}: another process is writing it; wait for that one"
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


def _manifest(folder, plan):
    splits = {}
    for name, group in itertools.groupby(plan.shards, lambda shard: shard.split):
        whole = [read_facts(folder, shard) for shard in group]
        sides = np.concatenate([facts["sizes"] for facts in whole])
        splits[name] = {
            "records": len(sides),
            "bad": [],
            "sizes": describe_sizes(sides),
            "shards": [facts["shard"] for facts in whole],
        }
    facts = {"class_names": list(plan.class_names), "first_label": 0}
    return {"validated": False, **facts, "splits": splits}


def _open_pipeline(options):
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions

        return apache_beam.Pipeline(options=PipelineOptions(options.split()))
    except ImportError as error:
        raise DataError(
            f"beam={options!r}: needs Apache Beam; pip install keras-resnet-d[beam]"
        ) from error
    except ValueError as error:
        raise DataError(f"beam={options!r}: {error}") from error


def _write_on_beam(pipeline, folder, plan):
    import apache_beam

    content = pickle.dumps(plan)  # too large for the description of a pipeline
    with atomic_write(folder / WORK / _PICKLE) as partial:
        partial.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with pipeline:
        indices = pipeline | apache_beam.Create(range(len(plan.shards)))
        spread = indices | apache_beam.Reshuffle()  # or one worker would have them all
        spread | apache_beam.Map(_write_as_worker, folder.resolve(), digest)


def _write_as_worker(index, folder, digest):
    plan = _read_plan(folder, digest)
    shard = plan.shards[index]
    # a bad picture is met again, and named, by the process that started the workers
    with contextlib.suppress(DataError):
        if not is_written(folder, shard):
            write_shard(folder, plan, shard, stored_pictures(plan, [shard]))


@functools.lru_cache(maxsize=1)
def _read_plan(folder, digest) -> Plan:
    content = (folder / WORK / _PICKLE).read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:  # only ours is safe to unpickle
        raise DataError(f"{folder / WORK / _PICKLE}: not the plan of this pipeline")
    return pickle.loads(content)
