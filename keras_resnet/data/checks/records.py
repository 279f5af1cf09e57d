"""TFRecord shards, checked: their records, checksums, labels and names."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from keras_resnet.data.checks.inspector import DAMAGED
from keras_resnet.data.checks.report import Seen, Study
from keras_resnet.data.checks.workers import cores
from keras_resnet.data.labels import KEYS, check_names, find_names, find_range
from keras_resnet.data.records import index_records, record_split
from keras_resnet.data.sources import MANIFEST
from keras_resnet.data.splits import Records
from keras_resnet.errors import DataError


def study_records(root: Path, shards, old: dict, first_label, classes, look) -> Study:
    """Looks at all records of {split: shards}; `old` is a former manifest, or {}.

    Raises:
        DataError: naming the shard, and the record where there is one.
    """
    first_label = _first_label(root, old, first_label)
    pool = ThreadPoolExecutor(cores())
    try:
        _check_listed(root, shards, old)
        every = [shard for some in shards.values() for shard in some]
        offsets = dict(zip(every, pool.map(index_records, every)))
        for shard in every:
            _check_offsets(shard, offsets[shard], _entry(shard, old))
        # the processes look at the records meanwhile
        digests = {shard: pool.submit(_digest, shard) for shard in every}
        splits = {
            name: record_split(some, [offsets[shard] for shard in some], class_count=0)
            for name, some in shards.items()
        }
        seen = look({name: _requests(split) for name, split in splits.items()})
        named = {shard: digest.result() for shard, digest in digests.items()}
    finally:
        pool.shutdown(cancel_futures=True)
    names, labels = _read_labels(root, splits, seen, old, first_label, classes)
    for some in seen.values():
        for number, one in enumerate(some):
            if not one.reason and one.label not in labels:
                reason = f"label {one.label}: must be from {labels[0]} to {labels[-1]}"
                some[number] = one._replace(reason=reason)
    manifest = {
        name: {"shards": [_shard_facts(shard, offsets, named, old) for shard in some]}
        for name, some in shards.items()
    }
    for name, split in splits.items():
        _check_digests(split, seen[name], manifest[name]["shards"])
    return Study(
        path=str(root),
        class_names=names,
        splits=splits,
        seen=seen,
        labels={
            name: [None if one.label is None else one.label - labels[0] for one in some]
            for name, some in seen.items()
        },
        manifest=manifest,
        more={"first_label": first_label},
    )


def _first_label(root, old, given):
    if given not in (None, 0, 1):
        raise DataError(f"first_label={given}: must be 0 or 1")
    if not old and given is None:
        raise DataError(
            f"{root}: TFRecords without {MANIFEST}: say what they call their first "
            "class, --first-label 0 (as TFDS) or 1 (as TF-slim)"
        )
    said = old.get("first_label", given)
    if given not in (None, said):
        raise DataError(
            f"first_label={given}: {old['path']} says {said}; leave it out, or "
            f"remove {MANIFEST}"
        )
    return said


def _check_listed(root, shards, old):
    if not old:
        return
    listed = {root / file for entries in old["listed"].values() for file in entries}
    found = {shard for some in shards.values() for shard in some}
    for shard in sorted(listed - found):
        raise DataError(f"{shard}: missing, and {MANIFEST} lists it; get it back")
    for shard in sorted(found - listed):
        raise DataError(f"{shard}: not in {MANIFEST}; remove one of the two")


def _entry(shard, old):
    for entries in old.get("listed", {}).values():
        if shard.name in entries:
            return entries[shard.name]
    return {}


def _check_offsets(shard, offsets, entry):
    if not entry or offsets == entry["offsets"]:
        return
    listed = entry["offsets"]
    pairs = zip(offsets, listed)
    same = [*itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
    raise DataError(
        f"{shard}: record {len(same)}: not where {MANIFEST} says; it has "
        f"{len(offsets)} of {len(listed)} records; write or copy it again"
    )


def _digest(shard):
    with open(shard, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _requests(split: Records):
    shards, offsets = split.shard.tolist(), split.offset.tolist()
    return [
        {"shard": split.shards[shard], "offset": offset, "keys": KEYS}
        for shard, offset in zip(shards, offsets)
    ]


def _shard_facts(shard, offsets, digests, old):
    was = _entry(shard, old)
    return {
        "file": shard.name,
        "records": len(offsets[shard]),
        "bytes": shard.stat().st_size,
        "sha256": was.get("sha256", digests[shard]),  # or no later look would see it
        "is": digests[shard],
        "offsets": offsets[shard],
    }


def _check_digests(split: Records, seen: list[Seen], shards: list[dict]):
    """A shard of another SHA-256 must hold the record that explains it."""
    damaged = {
        int(split.shard[number])
        for number, one in enumerate(seen)
        if one.reason and one.reason.startswith(DAMAGED)
    }
    for place, facts in enumerate(shards):
        if facts.pop("is") != facts["sha256"] and place not in damaged:
            raise DataError(
                f"{split.shards[place]}: changed since {MANIFEST} was written, though "
                f"its records are whole; get it back, or remove {MANIFEST}"
            )


def _read_labels(root, splits, seen, old, first_label, classes):
    """(class names, range of labels), by the manifest or by what the records say."""
    found: dict[str, dict] = {name: {} for name in seen}
    texts: dict = defaultdict(dict)
    synsets: dict = defaultdict(dict)
    for name, some in seen.items():
        for number, one in enumerate(some):
            if one.label is None:
                continue
            for known, value in ((texts, one.text), (synsets, one.synset)):
                if value is not None and value not in known[one.label]:
                    known[one.label][sys.intern(value)] = splits[name].where(number)
            if one.label not in found[name]:
                found[name][one.label] = splits[name].where(number)
    if old:
        names = tuple(old["class_names"])
        labels = range(first_label, first_label + len(names))
        check_names(old["path"], names, labels, texts)
        return names, labels
    train = found.get("train") or found.get("val")
    if not train:
        reason = next(one.reason for some in seen.values() for one in some)
        raise DataError(f"{root}: no record has a label; the first: {reason}")
    labels = find_range(root, train, first_label, classes)
    return find_names(labels, texts, synsets), labels
