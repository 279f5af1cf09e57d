"""Surveys TFRecord shards: their records, checksums, labels and class names."""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from keras_resnet.data.checks.former import FormerManifest
from keras_resnet.data.checks.inspection import DAMAGED
from keras_resnet.data.checks.labels import KEYS, check_names, find_names, find_range
from keras_resnet.data.checks.report import Inspection, Survey
from keras_resnet.data.checks.workers import cores
from keras_resnet.data.manifest import MANIFEST
from keras_resnet.data.records import RAW, Records, index_records, record_split
from keras_resnet.errors import DataError
from keras_resnet.files import sha256

_RAW = RAW.decode()
Inspect = Callable[[dict[str, list[dict]]], dict[str, list[Inspection]]]
Shards = Mapping[str, list[Path]]  # {split: files}


def survey_records(
    root: Path,
    shards: Shards,
    former: FormerManifest | None,
    first_label: int | None,
    classes: int | None,
    inspect: Inspect,
) -> Survey:
    """Inspects all records of the shards, and compares them with a former manifest.

    Raises:
        DataError: a shard is missing, new, damaged or changed; or labels contradict the
            former manifest, `first_label` or `classes`.
    """
    first_label = _first_label(root, former, first_label)
    all_shards = [shard for files in shards.values() for shard in files]
    pool = ThreadPoolExecutor(cores())
    try:
        if former:
            _check_listed(root, all_shards, former)
        offsets = dict(zip(all_shards, pool.map(index_records, all_shards)))
        for shard in all_shards:
            if former and (entry := former.entry(shard.name)):
                _check_offsets(shard, offsets[shard], entry["offsets"])
        # the threads hash the shards while the worker processes inspect the records
        digests = {shard: pool.submit(sha256, shard) for shard in all_shards}
        splits = {
            name: record_split(files, [offsets[file] for file in files], class_count=0)
            for name, files in shards.items()
        }
        inspections = inspect({name: _requests(s) for name, s in splits.items()})
        hashes = {shard: digest.result() for shard, digest in digests.items()}
    finally:
        pool.shutdown(cancel_futures=True)
    names, labels = _read_labels(
        root, splits, inspections, former, first_label, classes
    )
    raw = _are_raw(inspections)
    for found_of_split in inspections.values():
        for number, found in enumerate(found_of_split):
            if not found.reason and found.label not in labels:
                allowed = f"must be from {labels[0]} to {labels[-1]}"
                reason = f"label {found.label}: {allowed}"
                found_of_split[number] = found._replace(reason=reason)
            elif not found.reason and (found.format == _RAW) != raw:
                others = _RAW if raw else "image files"
                reason = f"{found.format}, but most records are {others}"
                found_of_split[number] = found._replace(reason=reason)
    manifest = {}
    for name, split in splits.items():
        entries = [_entry(s, offsets[s], hashes[s], former) for s in shards[name]]
        _check_changed(split, inspections[name], entries, hashes)
        manifest[name] = {"shards": entries}
    return Survey(
        path=str(root),
        class_names=names,
        splits=splits,
        inspections=inspections,
        manifest=manifest,
        first_label=first_label,
        extra={"first_label": first_label, **({"raw": True} if raw else {})},
    )


def _are_raw(inspections: Mapping[str, list[Inspection]]) -> bool:
    """Whether most of the good records hold raw pixels."""
    good = [it for found in inspections.values() for it in found if not it.reason]
    return 2 * sum(it.format == _RAW for it in good) > len(good)


def _first_label(root: Path, former: FormerManifest | None, given: int | None) -> int:
    if given not in (None, 0, 1):
        raise DataError(f"first_label={given}: must be 0 or 1")
    known = former.first_label if former else None
    if former and known is not None:
        if given not in (None, known):
            raise DataError(
                f"first_label={given}: {former.path} says {known}; leave it out, or "
                f"remove {MANIFEST}"
            )
        return known
    if given is None:
        raise DataError(
            f"{root}: TFRecords without {MANIFEST}; give the label of their first "
            "class, --first-label 0 (as in TFDS) or 1 (as in TF-slim)"
        )
    return given


def _check_listed(root: Path, shards: list[Path], former: FormerManifest) -> None:
    listed = {root / file for entries in former.splits.values() for file in entries}
    for shard in sorted(listed.difference(shards)):
        raise DataError(f"{shard}: missing, but {MANIFEST} lists it; restore it")
    for shard in sorted(set(shards) - listed):
        raise DataError(f"{shard}: not in {MANIFEST}; remove the shard or {MANIFEST}")


def _check_offsets(shard: Path, offsets: list[int], listed: list[int]) -> None:
    if offsets == listed:
        return
    pairs = zip(offsets, listed)
    same = [*itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
    raise DataError(
        f"{shard}: record {len(same)}: not at the offset in {MANIFEST}; the shard has "
        f"{len(offsets)} of {len(listed)} records; write or copy it again"
    )


def _requests(split: Records) -> list[dict[str, Any]]:
    shards, offsets = split.shard.tolist(), split.offset.tolist()
    return [
        {"shard": split.shards[shard], "offset": offset, "keys": KEYS}
        for shard, offset in zip(shards, offsets)
    ]


def _entry(
    shard: Path, offsets: list[int], sha256: str, former: FormerManifest | None
) -> dict[str, Any]:
    before = former.entry(shard.name) if former else None
    return {
        "file": shard.name,
        "records": len(offsets),
        "bytes": shard.stat().st_size,
        # the former hash is kept, so that the next call reports the change too
        "sha256": (before or {}).get("sha256", sha256),
        "offsets": offsets,
    }


def _check_changed(
    split: Records,
    inspections: list[Inspection],
    entries: list[dict[str, Any]],
    hashes: Mapping[Path, str],
) -> None:
    """Raises a DataError if a shard's SHA-256 has changed without a damaged record."""
    damaged = {
        split.shards[split.shard[number]]
        for number, found in enumerate(inspections)
        if found.reason and found.reason.startswith(DAMAGED)
    }
    for shard, entry in zip(split.shards, entries):
        if hashes[Path(shard)] != entry["sha256"] and shard not in damaged:
            raise DataError(
                f"{shard}: changed since {MANIFEST} was written, though its records "
                f"are intact; restore it, or remove {MANIFEST}"
            )


def _read_labels(
    root: Path,
    splits: Mapping[str, Records],
    inspections: Mapping[str, list[Inspection]],
    former: FormerManifest | None,
    first_label: int,
    classes: int | None,
) -> tuple[tuple[str, ...], range]:
    """The class names and range of labels, from the former manifest or the records."""
    found: dict[str, dict[int, str]] = {name: {} for name in inspections}
    texts: dict[int, dict[str, str]] = defaultdict(dict)
    synsets: dict[int, dict[str, str]] = defaultdict(dict)
    for split, found_of_split in inspections.items():
        for number, one in enumerate(found_of_split):
            if one.label is None:
                continue
            for known, value in ((texts, one.text), (synsets, one.synset)):
                if value is not None and value not in known[one.label]:
                    known[one.label][sys.intern(value)] = splits[split].where(number)
            if one.label not in found[split]:
                found[split][one.label] = splits[split].where(number)
    if former:
        labels = range(first_label, first_label + len(former.class_names))
        check_names(former.path, former.class_names, labels, texts)
        return former.class_names, labels
    places = found.get("train") or found.get("val")
    if not places:
        reason = next(one.reason for found in inspections.values() for one in found)
        raise DataError(f"{root}: no record has a label; the first: {reason}")
    labels = find_range(root, places, first_label, classes)
    return find_names(labels, texts, synsets), labels
