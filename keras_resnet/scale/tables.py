"""Predictions of many image files, as Parquet files that are written block by block."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.errors import DataError, Error, RayError
from keras_resnet.evaluate.prediction import Paths, list_pictures
from keras_resnet.files import atomic_write, write_whole
from keras_resnet.ray import connected, last_line, missing
from keras_resnet.scale.predictor import Predictor

PLAN = "_predictions.json"  # what the folder is of; Parquet readers skip the name
BLOCK = 1024  # pictures in a file
_CORES = 4  # of a worker without a GPU


def predict_to_tables(
    model: str | os.PathLike[str],
    files: Paths,
    out: str | os.PathLike[str],
    top: int = 5,
    features: bool = False,
    ray: str | None = None,
    progress: Callable[[Iterable[int], int], Iterable[int]] = lambda blocks, _: blocks,
) -> dict[str, Any]:
    """Classifies image files, and writes Parquet files with a row for each of them.

    Each block of 1,024 files becomes part-NNNNN.parquet, with the columns `path`, `ok`,
    `problem` (why a picture cannot be read, else null), and `classes` and
    `probabilities`, the likeliest first, or `features`. After an interruption the same
    call writes the blocks that are missing.

    Args:
        model: what `Predictor` takes, by name; with Ray, at the same path everywhere.
        files: paths of image files or folders; with Ray, the same everywhere, and
            written as absolute paths.
        out: a folder; it may hold an earlier part of the same predictions.
        top: how many classes to write for each picture.
        features: write the input of the classifier instead of classes.
        ray: the address of a Ray cluster whose workers compute, such as "auto"; "local"
            starts Ray on this machine; None uses no Ray.
        progress: a function (numbers of blocks, how many) -> the same numbers.

    Returns:
        {"pictures": how many, "bad": how many of them cannot be read, "path": `out`}.

    Raises:
        DataError: there are no pictures, or `out` has something else.
        Error: Ray or pyarrow is missing, or the model cannot be opened.
    """
    with connected(ray) if ray is not None else contextlib.nullcontext():
        return _predict(model, files, Path(out), top, features, ray, progress)


def _predict(
    model: str | os.PathLike[str],
    files: Paths,
    folder: Path,
    top: int,
    features: bool,
    ray: str | None,
    progress: Callable[[Iterable[int], int], Iterable[int]],
) -> dict[str, Any]:
    _pyarrow()
    paths = tuple(list_pictures(files))
    if not paths:
        raise DataError("files: no pictures are given")
    name = os.path.abspath(model) if os.path.exists(model) else os.fspath(model)
    if ray is not None:  # workers may have another working directory
        paths = tuple(map(os.path.abspath, paths))
    plan = {"model": name, "top": top, "features": features, "block": BLOCK}
    plan |= {"pictures": len(paths), "paths": _digest(map(os.path.abspath, paths))}
    _claim(folder, plan)
    work = _Work(Predictor(name, top, features), folder.resolve())
    blocks = {
        number: paths[start : start + BLOCK]
        for number, start in enumerate(range(0, len(paths), BLOCK))
        if not work.file(number).exists()
    }
    done = starmap(work, blocks.items()) if ray is None else _on_ray(work, blocks)
    for _ in progress(done, len(blocks)):
        pass
    return {"path": str(folder), "pictures": len(paths), "bad": _count_bad(folder)}


@dataclass(frozen=True)
class _Work:
    """Writes a block of predictions; picklable."""

    predict: Predictor
    folder: Path

    def file(self, block: int) -> Path:
        return self.folder / f"part-{block:05d}.parquet"

    def __call__(self, block: int, paths: Sequence[str]) -> int:
        from pyarrow import parquet

        rows = self.predict({"path": paths})
        with atomic_write(self.file(block)) as partial:
            parquet.write_table(_table(rows), partial)
        return block


def _table(rows: dict[str, np.ndarray]) -> Any:
    """A table of what a Predictor returns for paths."""
    arrow = _pyarrow()
    bad = ~rows["ok"]
    columns = {
        "path": arrow.array(
            [_printable(path) for path in rows["path"]], arrow.string()
        ),
        "ok": arrow.array(rows["ok"]),
        "problem": arrow.array(
            [_printable(problem) or None for problem in rows["problem"]],
            arrow.string(),
        ),
    }
    kinds = {"classes": arrow.string(), "probabilities": arrow.float32()}
    kinds["features"] = arrow.float32()
    for name, kind in kinds.items():
        for column in (name, f"top_{name}"):
            if column in rows:
                lists = [
                    None if is_bad else row.tolist()
                    for row, is_bad in zip(rows[column], bad)
                ]
                columns[name] = arrow.array(lists, arrow.list_(kind))
    return arrow.table(columns)


def _printable(text: str) -> str:
    """Text for a column, with escapes for bytes of a file name that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _on_ray(work: _Work, blocks: Mapping[int, Sequence[str]]) -> Iterator[int]:
    """The numbers of the blocks, each once Ray Data has it written."""
    if not blocks:
        return
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    found = ray.cluster_resources()
    gpus, cores = int(found.get("GPU", 0)), int(found.get("CPU", 1))
    each = min(_CORES, cores)
    workers = min(gpus or max(1, cores // each), len(blocks))
    items = [{"block": block, "paths": list(it)} for block, it in blocks.items()]
    written = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Worker,
        fn_constructor_args=[work],
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=1 if gpus else None,
        num_cpus=None if gpus else each,
    )
    try:
        for row in written.iter_rows():
            if row["problem"]:
                raise RayError(f"ray: a worker failed: {row['problem']}")
            yield row["block"]
    except ray.exceptions.RayError as error:
        raise RayError(f"ray: a worker failed: {last_line(error)}") from error


class _Worker:
    """An actor that writes blocks; its process opens the model once."""

    def __init__(self, work: _Work) -> None:
        self.work = work

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        problem = ""
        try:
            for block, paths in zip(batch["block"], batch["paths"]):
                self.work(int(block), list(paths))
        except Error as error:  # which Ray would try again, and bury in its own text
            problem = str(error)
        return {"block": batch["block"], "problem": np.array([problem], object)}


def _claim(folder: Path, plan: dict[str, Any]) -> None:
    """Makes the folder, or checks that it is of the same predictions."""
    if (folder / PLAN).is_file():
        before = json.loads((folder / PLAN).read_text())
        differing = [key for key in plan if before.get(key) != plan[key]]
        if differing:
            raise DataError(
                f"out={str(folder)!r}: has predictions with another "
                f"{', '.join(differing)}; choose another folder"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"out={str(folder)!r}: exists, and is no folder of predictions")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / PLAN, json.dumps(plan, indent=1))


def _digest(paths: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(paths).encode(errors="surrogateescape")).hexdigest()


def _count_bad(folder: Path) -> int:
    from pyarrow import parquet

    return sum(
        parquet.read_table(file, columns=["ok"])["ok"].to_pylist().count(False)
        for file in folder.glob("part-*.parquet")
    )


@functools.cache
def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise missing("out") from error
    return pyarrow
