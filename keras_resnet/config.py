"""What a net is, as numbers: ResNetConfig; and VARIANTS, the published nets."""

from __future__ import annotations

import dataclasses
import fnmatch
import numbers
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_CHOICES = {
    "block": ("basic", "bottleneck"),
    "stem": ("conv7", "deep", "deep_tiered"),
    "shortcut": ("projection", "avg_pool", "zero_pad"),
    "attention": (None, "se", "eca"),
    "output_stride": (8, 16, 32),
    "fused_batch_norm": (True, False, None),
}


@dataclass(frozen=True)
class ResNetConfig:
    """The architecture of one net.

    Depths and letters are those of arXiv 1812.01187 section 4; shortcuts are options A
    (``zero_pad``), B (``projection``, ``avg_pool``) and C (``project_always``) of arXiv
    1512.03385 section 3.3.
    """

    depths: tuple[int, ...]  # blocks of each stage
    block: str = "bottleneck"  # or "basic"
    width: int = 64  # filters of stage 1; each later stage doubles them
    stem: str = "conv7"  # one 7x7; "deep": three 3x3; "deep_tiered": timm's "t"
    stem_width: int | None = None  # of the first 3x3; None: half of `width`
    shortcut: str = "projection"  # "avg_pool": ResNet-D; "zero_pad": option A
    project_always: bool = False  # option C: no identity shortcut anywhere
    first_stage_projection: bool = False  # Paddle's basic nets project in stage 1 too
    stride_on_first: bool = False  # variant a: stride on the first 1x1, not on the 3x3
    attention: str | None = None  # "se" or "eca"
    groups: int = 1  # of the 3x3 (ResNeXt's cardinality)
    group_width: int = 64  # channels a group at 64 filters (ResNeXt's base width)
    zero_gamma: bool = True  # last normalisation of a branch starts at zero
    drop_path: float = 0.0  # stochastic depth of the last block; linear from 0
    dropout: float = 0.0  # before the classifier
    output_stride: int = 32  # 16 and 8 dilate instead of striding
    mean: tuple[float, ...] = IMAGENET_MEAN  # of RGB in [0, 1]
    std: tuple[float, ...] = IMAGENET_STD  # of RGB in [0, 1]
    # False: Keras's own BatchNormalization; None: biases, `export.fold_batch_norm`'s
    fused_batch_norm: bool | None = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = python_scalar(getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        for name in ("depths", "mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, tuple | list):  # JSON gives lists
                _refuse(self, name, "a tuple or list")
            object.__setattr__(self, name, tuple(map(python_scalar, value)))
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                _refuse(self, name, f"one of {', '.join(map(repr, allowed))}")
        for name in ("width", "stem_width", "groups", "group_width"):
            value = getattr(self, name)
            if not (name == "stem_width" and value is None) and not _positive(value):
                _refuse(self, name, "a positive integer")
        if not self.depths or not all(map(_positive, self.depths)):
            _refuse(self, "depths", "positive integers, one a stage")
        for name in ("drop_path", "dropout"):
            value = getattr(self, name)
            if not (_number(value) and 0 <= value < 1):
                _refuse(self, name, "in [0, 1)")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean={self.mean}, std={self.std}: must be equally long")
        if not all(_number(value) and 0 <= value <= 1 for value in self.mean):
            _refuse(self, "mean", "in [0, 1]; divide means of 0-255 pixels by 255")
        if not all(_number(value) and 0 < value <= 1 for value in self.std):
            _refuse(self, "std", "in (0, 1]; divide deviations of 0-255 pixels by 255")
        if self.block == "basic" and (
            self.groups > 1 or self.group_width != 64 or self.stride_on_first
        ):
            raise ValueError(
                f"block='basic' with groups={self.groups}, "
                f"group_width={self.group_width}, "
                f"stride_on_first={self.stride_on_first}: only bottlenecks have these"
            )
        if self.stem == "conv7" and self.stem_width is not None:
            raise ValueError(
                f"stem='conv7' with stem_width={self.stem_width}: only deep stems have "
                "it; a 7x7 has `width` filters"
            )
        if self.block == "bottleneck" and self.width * self.group_width < 64:
            raise ValueError(
                f"width={self.width}, group_width={self.group_width}: a group has no "
                f"channel; width must be at least {-(-64 // self.group_width)}"
            )
        if self.stem == "deep_tiered" and (self.stem_width or self.width // 2) < 4:
            raise ValueError(
                f"stem='deep_tiered' with width={self.width}, "
                f"stem_width={self.stem_width}: stem_width must be at least 4"
            )
        if self.shortcut == "zero_pad" and (
            self.project_always or self.first_stage_projection
        ):
            raise ValueError(
                "shortcut='zero_pad': option A has no projections; leave out "
                "project_always and first_stage_projection"
            )

    def replace(self, **overrides: Any) -> ResNetConfig:
        """A copy with other values; an unknown field is a TypeError that lists all."""
        fields = {field.name for field in dataclasses.fields(self)}
        if unknown := sorted(overrides.keys() - fields):
            raise TypeError(
                f"unknown override {', '.join(unknown)}: must be one of "
                f"{', '.join(sorted(fields))}"
            )
        return dataclasses.replace(self, **overrides)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ResNetConfig:
        """From a file's fields; former versions kept some that have no effect."""
        unused = {"group_width"} if fields.get("block") == "basic" else set()
        unused |= {"stem_width"} if fields.get("stem") == "conv7" else set()
        return cls(**{k: v for k, v in fields.items() if k not in unused})


def python_scalar(value: Any) -> Any:
    """Python's number in place of a NumPy scalar, so that JSON takes it."""
    return value.item() if isinstance(value, np.generic) else value


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _refuse(config: ResNetConfig, name: str, allowed: str) -> None:
    raise ValueError(f"{name}={getattr(config, name)!r}: must be {allowed}")


_DEPTHS = {
    18: ("basic", (2, 2, 2, 2)),
    26: ("bottleneck", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
_LETTERS: dict[str, dict[str, Any]] = {
    "a": {"stride_on_first": True},
    "b": {},
    "c": {"stem": "deep"},
    "d": {"stem": "deep", "shortcut": "avg_pool"},
    "s": {"stem": "deep", "stem_width": 64},
    "t": {"stem": "deep_tiered", "shortcut": "avg_pool"},
}


def _config(depth: int, letter: str, **fields: Any) -> ResNetConfig:
    block, depths = _DEPTHS[depth]
    return ResNetConfig(
        **{"depths": depths, "block": block} | _LETTERS[letter] | fields
    )


VARIANTS: dict[str, ResNetConfig] = {
    f"resnet{depth}{letter}": _config(depth, letter)
    for letter in "abcd"
    for depth, (block, _) in _DEPTHS.items()
    if not (letter == "a" and block == "basic")  # no 1x1 to stride on: a is b there
} | {
    # PaddleClas's own layouts where they differ from everybody else's
    "resnet18vd": _config(18, "d", first_stage_projection=True),
    "resnet34vd": _config(34, "d", first_stage_projection=True),
    "resnet200vd": _config(200, "d", depths=(3, 12, 48, 3)),
    "seresnet50d": _config(50, "d", attention="se"),
    "seresnet152d": _config(152, "d", attention="se"),
    "ecaresnet50d": _config(50, "d", attention="eca"),
    "ecaresnet101d": _config(101, "d", attention="eca"),
    "resnext50d_32x4d": _config(50, "d", groups=32, group_width=4),
    "seresnext26d_32x4d": _config(26, "d", attention="se", groups=32, group_width=4),
    "seresnext101d_32x8d": _config(101, "d", attention="se", groups=32, group_width=8),
    "resnet50t": _config(50, "t"),
    "resnet50s": _config(50, "s"),
}


def constructor_name(variant: str) -> str:
    """resnet50d -> ResNet50D, seresnext26d_32x4d -> SEResNeXt26D_32x4d."""
    prefix, family, depth, rest = re.findall(
        r"(.*?)(resnet|resnext)(\d+[a-z]+)(.*)", variant
    )[0]
    family = {"resnet": "ResNet", "resnext": "ResNeXt"}[family]
    return prefix.upper() + family + depth.upper() + rest


def list_models(pattern: str = "*") -> list[str]:
    """Names of VARIANTS that match a glob pattern, in the table's order."""
    return [name for name in VARIANTS if fnmatch.fnmatchcase(name, pattern.lower())]
