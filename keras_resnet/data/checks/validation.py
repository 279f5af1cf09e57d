"""Looks at every picture in processes that may die of it, and writes the manifest."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from keras_resnet.data.checks.records import study_records
from keras_resnet.data.checks.report import Seen, Study, summarise
from keras_resnet.data.checks.workers import cores, examine
from keras_resnet.data.sources import MANIFEST, find_shards, open_folder
from keras_resnet.data.splits import Files
from keras_resnet.errors import DataError
from keras_resnet.files import atomic_write


def validate(
    source,
    first_label: int | None = None,
    classes: int | None = None,
    seconds: float = 10.0,
    memory: int = 2 * 2**30,
    workers: int | None = None,
    progress: Callable[[Iterable, int], Iterable] = lambda pictures, total: pictures,
    manifest: str | Path | None = None,
) -> dict:
    """Decodes every picture of a folder, and writes its manifest, dataset.json.

    The manifest says of each file or TFRecord shard what it is, with its SHA-256, and
    which pictures are bad: training leaves those out or refuses, as `max_bad_examples`
    says. What an older manifest says is compared: a good picture whose SHA-256 is
    another by now is bad, until it is back or that manifest is removed.

    Args:
        source: a folder of train/ and val/ classes, or of TFRecord shards.
        first_label: what TFRecords without a manifest call their first class, 0 or 1,
            as nothing in them says it. Refused where labels or names contradict it.
        classes: how many there are, of those; None: all labels that are seen.
        seconds: that a picture may take.
        memory: bytes that a picture may take.
        workers: processes; None is one a core.
        progress: (pictures, their number) -> the same pictures, as a progress bar does.
        manifest: a .json file to write instead of dataset.json in the folder, where
            that is read-only; `open_source` takes it in place of the folder.

    Returns:
        The report of `summarise`, with "manifest": its path, or None and "problem": why
        it could not be written.

    Raises:
        DataError: there is nothing to look at, a shard falls into no records, labels
            contradict what is said of them, or shards what their manifest says.
    """
    root = Path(source)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; validate looks at folders")
    file = root / MANIFEST if manifest is None else Path(manifest)
    if file.suffix != ".json" or not file.parent.is_dir():
        raise DataError(
            f"manifest={file}: must be a .json file in a folder that exists"
        )
    for name, value in (("seconds", seconds), ("memory", memory)):
        if not value > 0:
            raise DataError(f"{name}={value}: must be above 0")

    def look(requests):
        """[Seen] of {split: requests}."""
        flat = [request for some in requests.values() for request in some]
        seen = [Seen()] * len(flat)
        # a process takes as long to start as it takes for some hundred pictures
        count = min(workers or cores(), 1 + len(flat) // 200)
        answers = examine(flat, count, seconds, memory)
        with contextlib.closing(answers):  # Ctrl-C ends the processes at once
            for place, answer in progress(answers, len(flat)):
                seen[place] = Seen(**answer)
        rest = iter(seen)
        return {name: [next(rest) for _ in some] for name, some in requests.items()}

    old = _read_manifest(file)
    if shards := find_shards(root):
        study = study_records(root, shards, old, first_label, classes, look)
    elif first_label is not None or classes is not None:
        raise DataError(
            f"{root}: a folder of classes has their names; first_label and classes are "
            "for TFRecords"
        )
    else:
        study = _study_files(root, old, look)
    report = summarise(study)
    if manifest is not None:
        study.more["root"] = os.path.abspath(root)
    try:
        with atomic_write(file) as partial:
            partial.write_text(_manifest(study))
    except OSError as error:
        problem = (
            f"{file.parent}: {file.name} cannot be written ({error.strerror}); write "
            "it elsewhere with `--manifest FILE.json`, and train on that file"
        )
        return {**report, "manifest": None, "problem": problem}
    return {**report, "manifest": str(file)}


def _manifest(study):
    splits = {
        name: {
            "records": study.splits[name].size,
            "bad": [
                {"number": number, "reason": one.reason}
                for number, one in enumerate(study.seen[name])
                if one.reason
            ],
            **facts,
        }
        for name, facts in study.manifest.items()
    }
    names = list(study.class_names)
    whole = {"validated": True, "class_names": names, **study.more, "splits": splits}
    # a line an entry: no string in JSON can hold these quotes
    return json.dumps(whole).replace('}, {"file"', '},\n{"file"')


def _read_manifest(file):
    """An older manifest, {} where there is none.

    With "path", "listed": {split: {file: its entry}}, and "good": the files that were
    not bad.
    """
    if not file.is_file():
        return {}
    try:
        manifest = json.loads(file.read_text())
        manifest["path"], manifest["listed"], manifest["good"] = file, {}, set()
        for name, facts in manifest["splits"].items():
            entries = facts["shards"] if "shards" in facts else facts["files"]
            manifest["listed"][name] = {entry["file"]: entry for entry in entries}
            bad = {entry["number"] for entry in facts["bad"]}
            manifest["good"] |= {
                entry["file"] for n, entry in enumerate(entries) if n not in bad
            }
        return manifest
    except (AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{file}: not a manifest of ours ({error!r}); remove it, and run "
            "`keras-resnet validate` again"
        ) from error


def _study_files(root, old, look):
    opened = open_folder(root, preflight=False)
    splits = {n: s for n, s in opened.splits.items() if isinstance(s, Files)}
    seen = look({n: [{"file": file} for file in s.files] for n, s in splits.items()})
    study = Study(str(root), opened.class_names, splits, seen, {}, {})
    for name, split in splits.items():
        before = old.get("listed", {}).get(name, {})
        entries = []
        for number, (file, label) in enumerate(zip(split.files, split.classes)):
            path = Path(file).relative_to(root).as_posix()
            one = seen[name][number]
            entry = {"file": path, "label": label, **one.facts()}
            was = _was(path, before.pop(path, {}), old)
            if was and was != one.sha256:
                entry["was"] = was
                if not one.reason:
                    changed = f"changed since {MANIFEST} was written (SHA-256)"
                    seen[name][number] = one._replace(reason=changed)
            entries.append(entry)
        study.labels[name] = list(split.classes)
        study.manifest[name] = {"files": entries}
        study.gone += [str(root / path) for path in before]
    return study


def _was(path, entry, old):
    """The SHA-256 that a file must have; None for a new one, or one to be repaired."""
    if "was" in entry:
        return entry["was"]
    return entry.get("sha256") if path in old.get("good", ()) else None
