"""`validate`: decodes every image in worker processes, and writes the manifest."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from keras_resnet.data.checks.former import FormerManifest, read_former
from keras_resnet.data.checks.records import Inspect, survey_records
from keras_resnet.data.checks.report import Inspection, Survey, summarise
from keras_resnet.data.checks.workers import cores, examine
from keras_resnet.data.folders import find_shards, open_folder
from keras_resnet.data.manifest import MANIFEST
from keras_resnet.data.splits import Files
from keras_resnet.errors import DataError
from keras_resnet.files import atomic_write


def validate(
    source: str | os.PathLike[str],
    first_label: int | None = None,
    classes: int | None = None,
    seconds: float = 10.0,
    memory: int = 2 * 2**30,
    workers: int | None = None,
    progress: Callable[[Iterable, int], Iterable] = lambda pictures, total: pictures,
    manifest: str | Path | None = None,
) -> dict[str, Any]:
    """Decodes every image of a folder, and writes its manifest, dataset.json.

    The manifest describes each file or TFRecord shard, with its SHA-256, and lists the
    bad images. Training leaves them out, or raises an error if there are more than
    `max_bad_examples`. An existing manifest is compared before it is replaced: an image
    that was good and has another SHA-256 now is bad, until the file is restored or the
    manifest removed.

    Args:
        source: a folder with train/ and val/, or of TFRecord shards.
        first_label: the label of the first class, 0 or 1, in TFRecords without a
            manifest.
        classes: the number of classes in TFRecords without a manifest; None infers it
            from the largest label.
        seconds: the most seconds that an image may take.
        memory: the most bytes of memory that an image may take.
        workers: the number of worker processes; None takes one per core.
        progress: a function (images, their number) -> an iterable of the same images,
            such as a progress bar.
        manifest: a .json file to write instead of dataset.json, for example because the
            folder is read-only. `open_source` takes it in place of the folder.

    Returns:
        The report of `summarise`, with the path of the manifest as "manifest". If the
        file cannot be written, "manifest" is None, and "problem" gives the reason.

    Raises:
        DataError: the folder does not exist, an argument is invalid, a shard is
            damaged, labels contradict `first_label` or `classes`, or shards contradict
            their manifest.
    """
    root = Path(source)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; source must be a folder")
    file = root / MANIFEST if manifest is None else Path(manifest)
    if file.suffix != ".json" or not file.parent.is_dir():
        raise DataError(
            f"manifest={file}: must be a .json file in a folder that exists"
        )
    for name, value in (("seconds", seconds), ("memory", memory)):
        if not value > 0:
            raise DataError(f"{name}={value}: must be above 0")

    def inspect(requests: dict[str, list[dict]]) -> dict[str, list[Inspection]]:
        all_requests = [request for group in requests.values() for request in group]
        inspections = [Inspection()] * len(all_requests)
        # starting a process takes as long as inspecting a few hundred images
        count = min(workers or cores(), 1 + len(all_requests) // 200)
        answers = examine(all_requests, count, seconds, memory)
        with contextlib.closing(answers):  # so that Ctrl-C ends the processes at once
            for place, answer in progress(answers, len(all_requests)):
                inspections[place] = Inspection(**answer)
        rest = iter(inspections)
        return {name: [next(rest) for _ in group] for name, group in requests.items()}

    former = read_former(file)
    if shards := find_shards(root):
        survey = survey_records(root, shards, former, first_label, classes, inspect)
    elif first_label is not None or classes is not None:
        raise DataError(
            f"{root}: a folder of classes has their names; use first_label and classes "
            "only with TFRecords"
        )
    else:
        survey = _survey_files(root, former, inspect)
    report = summarise(survey)
    if manifest is not None:
        survey.extra["root"] = os.path.abspath(root)
    try:
        with atomic_write(file) as partial:
            partial.write_text(_manifest(survey))
    except OSError as error:
        problem = (
            f"{file.parent}: {file.name} cannot be written ({error.strerror}); write "
            "it elsewhere with `--manifest FILE.json`, and train on that file"
        )
        return {**report, "manifest": None, "problem": problem}
    return {**report, "manifest": str(file)}


def _survey_files(
    root: Path, former: FormerManifest | None, inspect: Inspect
) -> Survey:
    source = open_folder(root, preflight=False)
    splits = {n: s for n, s in source.splits.items() if isinstance(s, Files)}
    inspections = inspect(
        {
            name: [{"file": file} for file in split.files]
            for name, split in splits.items()
        }
    )
    survey = Survey(str(root), source.class_names, splits, inspections, {})
    for name, split in splits.items():
        gone = dict.fromkeys(former.splits.get(name, {})) if former else {}
        entries = []
        for number, (file, label) in enumerate(zip(split.files, split.labels)):
            path = Path(file).relative_to(root).as_posix()
            gone.pop(path, None)
            found = inspections[name][number]._replace(label=label)
            entry = {"file": path, "label": label, **found.entry()}
            expected = former.expected_sha256(path) if former else None
            if expected and expected != found.sha256:
                entry["was"] = expected
                if not found.reason:
                    changed = f"changed since {MANIFEST} was written (SHA-256)"
                    found = found._replace(reason=changed)
            inspections[name][number] = found
            entries.append(entry)
        survey.manifest[name] = {"files": entries}
        survey.gone += [str(root / path) for path in gone]
    return survey


def _manifest(survey: Survey) -> str:
    splits = {
        name: {
            "records": survey.splits[name].size,
            "bad": [
                {"number": number, "reason": found.reason}
                for number, found in enumerate(survey.inspections[name])
                if found.reason
            ],
            **entries,
        }
        for name, entries in survey.manifest.items()
    }
    content = {
        "validated": True,
        "class_names": list(survey.class_names),
        **survey.extra,
        "splits": splits,
    }
    # one line per entry; this text cannot occur in a JSON string, which escapes quotes
    return json.dumps(content).replace('}, {"file"', '},\n{"file"')
