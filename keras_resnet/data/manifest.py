"""Reads dataset.json, the manifest that `validate` and `prepare` write, as a Source."""

from __future__ import annotations

import json
import os
import stat
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_resnet.data.folders import map_files, open_folder
from keras_resnet.data.records import Records, record_split
from keras_resnet.data.splits import Files, Source, Split
from keras_resnet.errors import DataError

MANIFEST = "dataset.json"
# the errors of reading a JSON file that is not a manifest
_MALFORMED = (AttributeError, LookupError, OverflowError, TypeError, ValueError)


class _FileEntries:
    """The files of a manifest, as columns: a million dicts would take 1 GB."""

    def __init__(self) -> None:
        self.files: list[str] = []  # relative to the root
        self.sizes, self.labels = array("q"), array("q")

    def add(self, entry: dict[str, Any]) -> None:
        size = entry["bytes"]
        self.files.append(entry["file"])
        self.sizes.append(-1 if size is None else size)
        self.labels.append(entry["label"])

    def extend(self, other: _FileEntries) -> None:
        self.files.extend(other.files)
        self.sizes.extend(other.sizes)
        self.labels.extend(other.labels)


def open_manifest(file: Path) -> Source:
    """The Source that a manifest describes.

    Raises:
        DataError: the file is not a manifest, or image files are missing, have another
            size than in the manifest, or are not in it.
    """
    try:
        manifest, runs = _parse(file)
        root = Path(manifest.get("root", file.parent))
        if not root.is_dir():
            raise DataError(
                f"{file}: describes {root}, which is not a folder; restore it, or run "
                f"`keras-resnet validate --manifest {file}` on the pictures' new folder"
            )
        class_names = tuple(manifest["class_names"])
        splits: dict[str, Split] = {}
        bad = {}
        for name, content in manifest["splits"].items():
            if "shards" in content:
                first_label = manifest["first_label"]
                splits[name] = _records(
                    root,
                    content["shards"],
                    len(class_names),
                    first_label,
                    manifest.get("raw", False),
                )
            else:
                splits[name] = _files(root, content["files"], runs)
            bad[name] = {entry["number"]: entry["reason"] for entry in content["bad"]}
            if content["records"] != splits[name].size:
                raise KeyError(f"{content['records']} records announced")
    except _MALFORMED as error:
        if isinstance(error, DataError):
            raise
        advice = "give a folder, or a file from `keras-resnet validate --manifest`"
        if file.name == MANIFEST:
            advice = "remove it, and run `keras-resnet validate` or `prepare` again"
        raise DataError(
            f"{file}: not a manifest of this package ({error!r}); {advice}"
        ) from error
    _check_nothing_new(file, root, splits)
    train, val = splits.get("train"), splits.get("val")
    return Source(
        str(root), class_names, train, val, bad, validated=manifest["validated"]
    )


def _parse(file: Path) -> tuple[dict[str, Any], list[_FileEntries]]:
    """Returns the manifest and its runs, a run being consecutive entries of files.

    In the manifest, {"run": n} replaces the entries of run n. `validate` writes one
    entry per line, so that a run can be collected line by line, without keeping a dict
    for each file in memory.
    """
    rest: list[str] = []
    runs: list[_FileEntries] = []
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
                runs.append(run := _FileEntries())
            run.add(entry)
    return json.loads("".join(rest)), runs


def _records(
    root: Path,
    shards: list[dict[str, Any]],
    class_count: int,
    first_label: int,
    raw: bool,
) -> Records:
    for shard in shards:
        _check_size(root / shard["file"], shard["bytes"])
    files = [root / shard["file"] for shard in shards]
    offsets = [shard["offsets"] for shard in shards]
    return record_split(files, offsets, class_count, first_label, raw=raw)


def _files(
    root: Path, entries: list[dict[str, Any]], runs: list[_FileEntries]
) -> Files:
    listed = _FileEntries()
    for entry in entries:
        if "run" in entry:
            listed.extend(runs[entry["run"]])
        else:
            listed.add(entry)
    prefix = str(root / "_")[:-1]  # Path's own spelling: no prefix for "."
    files = tuple(prefix + file.replace("/", os.sep) for file in listed.files)
    for _ in map_files(_check_size, files, listed.sizes):
        pass
    return Files(files, tuple(listed.labels))


def _check_size(file: str | Path, size: int) -> None:
    if size < 0:  # not a regular file: listed as bad, and never read
        return
    try:
        found = os.stat(file)
    except OSError:
        found = None
    if not found or not stat.S_ISREG(found.st_mode) or found.st_size != size:
        raise DataError(
            f"{file}: missing, or not {size} bytes long as in {MANIFEST}; "
            "restore it, or run `keras-resnet validate` (or `prepare`) again"
        )


def _check_nothing_new(manifest: Path, root: Path, splits: Mapping[str, Split]) -> None:
    """Raises a DataError if a folder of classes has a file that its manifest lacks."""
    if listed := _list_files(splits):
        found = _list_files(open_folder(root, preflight=False).splits)
        if found != listed and (new := set(found).difference(listed)):
            raise DataError(
                f"{min(new)}: not in {manifest}; run `keras-resnet validate` again"
            )


def _list_files(splits: Mapping[str, Split]) -> list[str]:
    files = [split.files for split in splits.values() if isinstance(split, Files)]
    return [file for group in files for file in group]
