"""Reads a table of image files and their labels, CSV or Parquet, as a Source."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_resnet.data.annotated.listing import (
    SPLIT_NAMES,
    check_class,
    fault,
    find_twice,
    read_text,
    show,
)
from keras_resnet.data.folders import folder_source, map_files, preflight_problem
from keras_resnet.data.splits import Source, Tagged

TABLES = (".csv", ".parquet")
BETWEEN = ";"  # separates the labels of an image
_MAX_BYTES = 2**31
_SPLIT_OF = {alias: split for split, names in SPLIT_NAMES.items() for alias in names}

Row = tuple[str, str, tuple[str, ...], str]  # place, path, labels, split


def open_table(file: Path, preflight: bool = True) -> Source:
    """The Source of a table with a row for each image.

    Args:
        file: .csv with a header, in UTF-8; or .parquet, which needs pyarrow. Its
            columns, of which others are ignored:
            - path: of the image file, relative to the folder of the table;
            - split: train or val (or validation, valid);
            - label: the class of the image; or labels: none, one or several classes,
              separated by semicolons, or in Parquet perhaps a list of texts.
        preflight: whether to check the first bytes of every file.

    Returns:
        A Source whose classes are the sorted names. With the column labels its splits
        are `Tagged`, and `several_labels` is set.

    Raises:
        DataError: the table or a file in it cannot be used. The message names the row.
    """
    columns, rows = _read(file)
    several = "labels" in columns
    if several and "label" in columns:
        problem = "has a column label and a column labels"
        raise fault(file, problem, "keep the one that counts")
    for needed in ("path", "split", *(() if several else ("label",))):
        if needed not in columns:
            problem = f"no column {needed}, but {show(', '.join(columns))}"
            raise fault(file, problem, "give path, split, and label or labels")
    found: dict[str, list[Row]] = {"train": [], "val": []}
    for number, row in enumerate(rows, start=2 if file.suffix == ".csv" else 1):
        parsed = _parse(f"{file}: row {number}", row, several)
        found[_SPLIT_OF[parsed[3]]].append(parsed)
    every = [row for split in found.values() for row in split]
    if not every:
        raise fault(file, "no rows", "give a row for each image")
    paths = [row[1] for row in every]
    if twice := find_twice(paths):
        raise fault(file, f"{show(twice)} is there twice", "remove one of its rows")
    if preflight:
        folder = file.parent
        files = [os.path.join(folder, path) for path in paths]
        for (place, path, *_), problem in zip(
            every, map_files(preflight_problem, files)
        ):
            if problem:
                remedy = "restore it, or allow bad pictures with max_bad_examples"
                raise fault(place, f"{show(path)}: {problem}", remedy)
    return (_tagged if several else _folder)(file, found)


def _folder(file: Path, found: Mapping[str, Sequence[Row]]) -> Source:
    """The Source of one label an image, as of a folder of classes."""
    splits: dict[str, dict[str, list[str]] | None] = {}
    for split, rows in found.items():
        classes: dict[str, list[str]] = {
            name: [] for name in sorted({row[2][0] for row in rows})
        }
        for _, path, labels, _ in rows:
            classes[labels[0]].append(os.path.join(file.parent, path))
        splits[split] = classes or None
    return folder_source(file, splits["train"], splits["val"])


def _tagged(file: Path, found: Mapping[str, Sequence[Row]]) -> Source:
    trained = {name for row in found["train"] for name in row[2]}
    measured = {name for row in found["val"] for name in row[2]}
    if found["train"] and (missing := sorted(measured - trained)):
        problem = f"label {show(missing[0])} has no training pictures"
        raise fault(file, problem, "add some, or remove the label")
    names = sorted(trained | measured)
    if not names:
        raise fault(file, "no row has a label", "fill the column labels")
    numbers = {name: number for number, name in enumerate(names)}
    splits = {
        split: Tagged(
            tuple(os.path.join(file.parent, row[1]) for row in rows),
            tuple(tuple(sorted(numbers[name] for name in row[2])) for row in rows),
            len(names),
        )
        for split, rows in found.items()
        if rows
    }
    return Source(
        str(file),
        tuple(names),
        splits.get("train"),
        splits.get("val"),
        several_labels=True,
    )


def _parse(place: str, row: Mapping[str, Any], several: bool) -> Row:
    """The values of a row, checked."""
    path, split = row["path"], row["split"]
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise fault(place, f"path {show(path)}", "must name an image file")
    if split not in _SPLIT_OF:
        raise fault(place, f"split {show(split)}", "must be train or val")
    given = row["labels" if several else "label"]
    if several and (given is None or isinstance(given, str)):
        given = (given or "").split(BETWEEN)
        given = [name for name in map(str.strip, given) if name]
    labels = tuple(given) if several else (given,)
    for name in labels:
        check_class(place, name)
    if twice := find_twice(labels):
        raise fault(place, f"label {show(twice)} is there twice", "remove one")
    return place, path, labels, split


def _read(file: Path) -> tuple[list[str], Iterator[Mapping[str, Any]]]:
    """The names of the columns, and the rows."""
    if file.suffix == ".parquet":
        return _read_parquet(file)
    # line breaks may be in a quoted field
    reader = csv.DictReader(io.StringIO(read_text(file, _MAX_BYTES), newline=""))
    try:
        columns = list(reader.fieldnames or ())
    except csv.Error as error:
        raise fault(file, f"not CSV ({error})", "write it anew") from error

    def rows() -> Iterator[Mapping[str, Any]]:
        try:
            for row in reader:
                if None in row or None in row.values():
                    place = f"{file}: line {reader.line_num}"
                    problem = f"not {len(columns)} fields, as the header has"
                    raise fault(place, problem, "quote fields that have commas")
                yield row
        except csv.Error as error:
            place = f"{file}: line {reader.line_num}"
            raise fault(place, f"not CSV ({error})", "mend it") from error

    return columns, rows()


def _read_parquet(file: Path) -> tuple[list[str], Iterator[Mapping[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        problem = "needs pyarrow to be read"
        raise fault(file, problem, "pip install keras-resnet-d[ray]") from error
    wanted = ("path", "split", "label", "labels")
    try:
        with parquet.ParquetFile(file) as table:
            columns = table.schema_arrow.names
            chosen = [name for name in columns if name in wanted]
            rows = table.read(chosen).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise fault(file, f"not Parquet ({reason})", "write it anew") from error
    return columns, iter(rows)
