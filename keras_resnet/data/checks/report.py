"""The report of `validate`: formats, modes, sizes, duplicates and bad images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_resnet.data.splits import Files, Split

_LISTED = 5  # the most examples listed with a count
_SUFFIXES = {
    "jpeg": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "png": {".png"},
    "gif": {".gif"},
    "bmp": {".bmp", ".dib"},
    "webp": {".webp"},
}


class Inspection(NamedTuple):
    """The findings about one image; a field is None if it could not be determined."""

    bytes: int | None = None
    sha256: str | None = None
    format: str | None = None  # according to the first bytes
    mode: str | None = None  # Pillow's mode, such as "RGB"
    height: int | None = None  # pixels
    width: int | None = None
    exif: int | None = None  # orientation, 1 to 8
    label: int | None = None  # as stored in the record
    text: str | None = None  # the name of the class
    synset: str | None = None
    reason: str | None = None  # why the image cannot be used
    alpha: bool | None = None

    def entry(self) -> dict[str, Any]:
        """The fields that the manifest has of a file, from `bytes` to `exif`."""
        return dict(zip(self._fields[:7], self[:7]))


@dataclass
class Survey:
    """A data set with the inspections of all its images."""

    path: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    inspections: dict[str, list[Inspection]]  # {split: inspections in its order}
    manifest: dict[str, dict]  # {split: its "files" or "shards"}
    first_label: int = 0  # the label of class 0
    extra: dict = field(default_factory=dict)  # further keys of the manifest
    gone: list[str] = field(default_factory=list)  # files only in the former manifest


def summarise(survey: Survey) -> dict[str, Any]:
    """The report of `validate`, which can be written as JSON.

    Returns:
        A dict with these keys. All but "splits", "gone" and "bad" count only good
        images.

        - path: the path of the data set;
        - splits: {split: {"pictures": number of images, "bad": number of bad images}};
        - classes: {class name: {split: number of images}};
        - formats, modes, exif: {value: number of images};
        - turned: the number of images with an EXIF orientation from 2 to 8;
        - alpha: the number of images with alpha;
        - sizes: min, median and max of height, width and short_side in pixels, and
          mean_bytes;
        - misnamed: the number of files with the suffix of another format ("count");
        - duplicates: for each split, the number of images with the bytes of an earlier
          one in it ("within"); the number of contents that are in both ("across");
        - gone: the number of files that are only in the former manifest ("count");
        - bad: [{"split", "number", "where", "reason"}, ...].

        The key "first" of misnamed, duplicates and gone lists a few examples.
    """
    bad, good = [], []
    classes = {name: dict.fromkeys(survey.splits, 0) for name in survey.class_names}
    for name, split in survey.splits.items():
        for number, found in enumerate(survey.inspections[name]):
            if found.reason:
                bad.append(
                    {
                        "split": name,
                        "number": number,
                        "where": split.where(number),
                        "reason": found.reason,
                    }
                )
            else:
                assert found.label is not None
                good.append((name, number, found))
                classes[survey.class_names[found.label - survey.first_label]][name] += 1

    def count(key: str) -> dict[str, int]:
        counts = Counter(str(getattr(found, key) or "none") for *_, found in good)
        return dict(sorted(counts.items()))

    misnamed = [
        survey.splits[name].where(number)
        for name, number, found in good
        if isinstance(survey.splits[name], Files)
        and Path(survey.splits[name].where(number)).suffix.lower()
        not in _SUFFIXES[str(found.format)]
    ]
    return {
        "path": survey.path,
        "splits": {
            name: {
                "pictures": split.size,
                "bad": sum(entry["split"] == name for entry in bad),
            }
            for name, split in survey.splits.items()
        },
        "classes": classes,
        "formats": count("format"),
        "modes": count("mode"),
        "exif": count("exif"),
        "turned": sum((found.exif or 1) > 1 for *_, found in good),
        "alpha": sum(bool(found.alpha) for *_, found in good),
        "sizes": describe_sizes(
            [[found.height, found.width, found.bytes] for *_, found in good]
        ),
        "misnamed": {"count": len(misnamed), "first": misnamed[:_LISTED]},
        "duplicates": _duplicates(survey, good),
        "gone": {"count": len(survey.gone), "first": survey.gone[:_LISTED]},
        "bad": bad,
    }


def describe_sizes(sizes: Sequence | np.ndarray) -> dict[str, Any]:
    """Statistics of the sizes of images, given as [[height, width, bytes], ...]."""
    if not len(sizes):
        return {}
    height, width, length = np.asarray(sizes, np.int64).T
    pixels = {"height": height, "width": width, "short_side": np.minimum(height, width)}
    spread = {
        name: {
            "min": int(values.min()),
            "median": float(np.median(values)),
            "max": int(values.max()),
        }
        for name, values in pixels.items()
    }
    return {**spread, "mean_bytes": round(float(length.mean()), 1)}


def _duplicates(
    survey: Survey, good: list[tuple[str, int, Inspection]]
) -> dict[str, Any]:
    places = defaultdict(list)
    for name, number, found in good:
        places[found.sha256].append((name, number))
    groups = [group for group in places.values() if len(group) > 1]
    within: Counter[str] = Counter()
    for group in groups:
        for name, copies in Counter(name for name, _ in group).items():
            within[name] += copies - 1
    across = [group for group in groups if len({name for name, _ in group}) > 1]
    return {
        "within": {name: within[name] for name in survey.splits},
        "across": len(across),
        # duplicates across splits come first, as they leak labels into validation
        "first": [
            [survey.splits[name].where(number) for name, number in group]
            for group in sorted(groups, key=lambda group: group not in across)[:_LISTED]
        ],
    }
