"""What a data set holds, counted: formats, modes, turns, sizes, twins, bad pictures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_resnet.data.splits import Files, Split

_LISTED = 5  # examples of what is counted
_ENDINGS = {
    "jpeg": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "png": {".png"},
    "gif": {".gif"},
    "bmp": {".bmp", ".dib"},
    "webp": {".webp"},
}


class Seen(NamedTuple):
    """What one look at a picture found; None where it got no so far."""

    bytes: int | None = None
    sha256: str | None = None
    format: str | None = None  # by its first bytes
    mode: str | None = None  # Pillow's name
    height: int | None = None  # pixels
    width: int | None = None
    exif: int | None = None  # orientation
    label: int | None = None  # as a record says it
    text: str | None = None  # of the class
    synset: str | None = None
    reason: str | None = None  # why it cannot be used
    alpha: bool | None = None

    def facts(self) -> dict:
        """What the manifest says of a file."""
        return dict(zip(self._fields[:7], self[:7]))


@dataclass
class Study:
    """A data set that was looked at."""

    path: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    seen: dict[str, list[Seen]]  # of each split, in its order
    labels: dict[str, list[Any]]  # from 0; of bad pictures anything
    manifest: dict[str, dict]  # of each split: files or shards
    more: dict = field(default_factory=dict)  # of the manifest
    gone: list[str] = field(default_factory=list)  # listed by an older manifest


def summarise(study: Study) -> dict:
    """The report of `validate`, as JSON can hold it.

    Returns:
        path; splits: {split: {"pictures", "bad"}}; classes: {name: {split: good
        pictures}}; formats, modes, exif: {what: good pictures}; turned: good pictures
        of an EXIF orientation from 2 to 8; alpha: those that have alpha; sizes: of
        height, width and short_side the min, median and max in pixels, and mean_bytes;
        misnamed: files whose ending is another format's; duplicates: in "within" the
        good pictures of a split that it holds already, and in "across" those contents
        that both splits hold, by their bytes; gone: files that an older manifest lists;
        bad: [{"split", "number", "where", "reason"}, ...]. Counts with "first" list a
        few.
    """
    bad, good = [], []
    classes = {name: dict.fromkeys(study.splits, 0) for name in study.class_names}
    for name, split in study.splits.items():
        for number, one in enumerate(study.seen[name]):
            if one.reason:
                bad.append(
                    {
                        "split": name,
                        "number": number,
                        "where": split.where(number),
                        "reason": one.reason,
                    }
                )
            else:
                good.append((name, number, one))
                classes[study.class_names[study.labels[name][number]]][name] += 1

    def count(key):
        counts = Counter(str(getattr(one, key) or "none") for *_, one in good)
        return dict(sorted(counts.items()))

    misnamed = [
        study.splits[name].where(number)
        for name, number, one in good
        if isinstance(study.splits[name], Files)
        and Path(study.splits[name].where(number)).suffix.lower()
        not in _ENDINGS[str(one.format)]
    ]
    return {
        "path": study.path,
        "splits": {
            name: {
                "pictures": split.size,
                "bad": sum(entry["split"] == name for entry in bad),
            }
            for name, split in study.splits.items()
        },
        "classes": classes,
        "formats": count("format"),
        "modes": count("mode"),
        "exif": count("exif"),
        "turned": sum((one.exif or 1) > 1 for *_, one in good),
        "alpha": sum(bool(one.alpha) for *_, one in good),
        "sizes": describe_sizes(
            [[one.height, one.width, one.bytes] for *_, one in good]
        ),
        "misnamed": {"count": len(misnamed), "first": misnamed[:_LISTED]},
        "duplicates": _duplicates(study, good),
        "gone": {"count": len(study.gone), "first": study.gone[:_LISTED]},
        "bad": bad,
    }


def describe_sizes(sides) -> dict:
    """Pixels and mean bytes of pictures, given as [[height, width, bytes], ...]."""
    if not len(sides):
        return {}
    height, width, size = np.asarray(sides, np.int64).T
    pixels = {"height": height, "width": width, "short_side": np.minimum(height, width)}
    spread = {
        name: {
            "min": int(values.min()),
            "median": float(np.median(values)),
            "max": int(values.max()),
        }
        for name, values in pixels.items()
    }
    return {**spread, "mean_bytes": round(float(size.mean()), 1)}


def _duplicates(study, good):
    places = defaultdict(list)
    for name, number, one in good:
        places[one.sha256].append((name, number))
    twins = [found for found in places.values() if len(found) > 1]
    within: Counter = Counter()
    for found in twins:
        for name, copies in Counter(name for name, _ in found).items():
            within[name] += copies - 1
    across = [found for found in twins if len({name for name, _ in found}) > 1]
    return {
        "within": {name: within[name] for name in study.splits},
        "across": len(across),
        # those that leak from one split into the other before the others
        "first": [
            [study.splits[name].where(number) for name, number in found]
            for found in sorted(twins, key=lambda found: found not in across)[:_LISTED]
        ],
    }
