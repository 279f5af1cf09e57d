"""The released checkpoints of VARIANTS: origin, test protocol, accuracy, licence.

released.csv has a row for each, from timm's results-imagenet.csv and default_cfgs
(aa4b585) and PaddleClas's model table and MODEL_URLS (d178931). The licence is the one
in timm's configuration, whose default is apache-2.0, or "unknown" where that withdraws
it. PaddleClas is apache-2.0 as a whole. Ask the origin before you rely on either.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from keras_resnet.config import VARIANTS
from keras_resnet.errors import WeightsError


@dataclass(frozen=True)
class Released:
    """A checkpoint of a variant, and the best published protocol to test it by.

    Accuracy is in percent of ImageNet's 50,000 validation pictures, as its publisher
    measured it: timm by Pillow, Paddle by OpenCV without antialiasing. It is None for
    checkpoints of other classes than ImageNet's 1,000.
    """

    variant: str
    tag: str
    origin: str  # hf://owner/name, or the file's https address
    train_size: int  # pixels, the side that it was trained at
    test_size: int  # pixels, the side that does best
    crop_pct: float  # of the resized short side, at test_size
    interpolation: str  # "bicubic" or "bilinear"
    mean: tuple[float, ...]  # of RGB in [0, 1]
    std: tuple[float, ...]  # of RGB in [0, 1]
    top1: float | None  # at test_size and crop_pct
    top5: float | None
    train_top1: float | None  # at train_size; None: the same protocol, or unknown
    train_top5: float | None
    train_crop_pct: float  # at train_size
    classes: int  # of its classifier: 1000, or 11821 of ImageNet-12k; 0: it has none
    licence: str  # SPDX, in lower case; "unknown"

    @property
    def commercial(self) -> bool:
        """Whether the licence allows commercial use."""
        return "-nc-" not in self.licence and self.licence != "unknown"

    @property
    def on_hub(self) -> bool:
        """Whether it is on the Hugging Face hub."""
        return self.origin.startswith("hf://")


@functools.cache
def released() -> dict[str, dict[str, Released]]:
    """{variant: {tag: Released}} in VARIANTS's order; read at the first call."""
    file = resources.files("keras_resnet.weights") / "released.csv"
    table: dict[str, dict[str, Released]] = {}
    for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines()):
        entry = Released(**{name: _READ.get(name, float)(row[name]) for name in row})
        table.setdefault(entry.variant, {})[entry.tag] = entry
    return table


def is_tag(name: object) -> bool:
    """Whether a name is "imagenet" or a tag of any variant: never a file or folder."""
    return name == "imagenet" or any(name in tags for tags in released().values())


def find(variant: str, tag: str) -> Released:
    """The checkpoint of a variant by its tag.

    "imagenet" has ImageNet's 1,000 classes, and the highest top-1 of the checkpoints
    whose licence allows commercial use and that are on the Hugging Face hub; if there
    are none, of those elsewhere.

    Raises:
        WeightsError: naming the tags that the variant has.
    """
    tags = released().get(variant, {})
    if tag == "imagenet" and tags:
        measured = [it for it in tags.values() if it.top1 is not None]
        return max(measured, key=lambda it: (it.commercial, it.on_hub, it.top1))
    if tag in tags:
        return tags[tag]
    if variant not in VARIANTS:
        raise WeightsError(f"variant={variant!r}: must be one of {', '.join(VARIANTS)}")
    known = ", ".join(["imagenet", *tags]) if tags else "no released weights"
    raise WeightsError(f"weights={tag!r}: {variant} has {known}")


def named(variant: str, weights: str) -> Released | None:
    """The checkpoint that a recipe's `weights` names by tag or origin; None if none."""
    tags = released().get(variant, {})
    if weights in ("imagenet", *tags):
        return find(variant, weights) if tags else None
    origin = weights.partition("@")[0]
    return next((it for it in tags.values() if it.origin == origin), None)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))


# how a column is read; the others are a float
_READ: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("variant", "tag", "origin", "interpolation", "licence"), str),
    **dict.fromkeys(("train_size", "test_size", "classes"), int),
    **dict.fromkeys(("mean", "std"), _numbers),
    **dict.fromkeys(
        ("top1", "top5", "train_top1", "train_top5"),
        lambda text: float(text) if text else None,
    ),
}
