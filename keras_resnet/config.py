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
    "shortcut": ("projection", "avg_pool", "zero_pad", "none"),
    "stem_pool": ("max", "conv"),
    "projection_size": (1, 3),
    "attention": (None, "se", "eca"),
    "anti_alias": (None, "avg", "blur"),
    "output_stride": (8, 16, 32),
    "normalization": ("batch", "group"),
    "fused_batch_norm": (True, False, None),
}
MAX_STAGES = 16
NORM_GROUPS = 32  # of group normalization (arXiv 1803.08494)
SE_RATIO = 1 / 16  # of squeeze-and-excitation, in its paper and in most nets


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
    # "conv": a 3x3 at stride 2 in place of the max pool (ResNet-RS, arXiv 2103.07579)
    stem_pool: str = "max"
    # "avg_pool": ResNet-D; "zero_pad": option A; "none": the plain nets of section 4.1
    shortcut: str = "projection"
    projection_size: int = 1  # kernel of a projection that strides; 3: SENet-154
    project_always: bool = False  # option C: no identity shortcut anywhere
    first_stage_projection: bool = False  # Paddle's basic nets project in stage 1 too
    stride_on_first: bool = False  # variant a: stride on the first 1x1, not on the 3x3
    # before a 3x3 would stride: "avg": an average pool in place of the stride (timm's
    # "aa" nets); "blur": a binomial filter (arXiv 1904.11486). The stem's pool as well
    anti_alias: str | None = None
    attention: str | None = None  # "se" (arXiv 1709.01507) or "eca" (arXiv 1910.03151)
    se_ratio: float = SE_RATIO  # inner over outer channels of "se"; ResNet-RS: 1/4
    groups: int = 1  # of the 3x3 (ResNeXt's cardinality)
    group_width: int = 64  # channels a group at 64 filters (ResNeXt's base width)
    reduce_first: int = 1  # divides the width of the first 1x1; SENet-154: 2
    zero_gamma: bool = True  # last normalization of a branch starts at zero
    drop_path: float = 0.0  # stochastic depth of the last block; linear from 0
    dropout: float = 0.0  # before the classifier
    output_stride: int = 32  # 16 and 8 dilate instead of striding
    mean: tuple[float, ...] = IMAGENET_MEAN  # of RGB in [0, 1]
    std: tuple[float, ...] = IMAGENET_STD  # of RGB in [0, 1]
    normalization: str = "batch"  # "group": 32 groups (arXiv 1803.08494)
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
        for name in ("width", "stem_width", "groups", "group_width", "reduce_first"):
            value = getattr(self, name)
            if not (name == "stem_width" and value is None) and not _positive(value):
                _refuse(self, name, "a positive integer")
        if not 0 < len(self.depths) <= MAX_STAGES or not all(
            map(_positive, self.depths)
        ):
            stages = f"positive integers, one for each of up to {MAX_STAGES} stages"
            _refuse(self, "depths", stages)
        for name in ("drop_path", "dropout"):
            value = getattr(self, name)
            if not (_number(value) and 0 <= value < 1):
                _refuse(self, name, "in [0, 1)")
        if not (_number(self.se_ratio) and 0 < self.se_ratio <= 1):
            _refuse(self, "se_ratio", "in (0, 1]")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean={self.mean}, std={self.std}: must be equally long")
        if not all(_number(value) and 0 <= value <= 1 for value in self.mean):
            _refuse(self, "mean", "in [0, 1]; divide means of 0-255 pixels by 255")
        if not all(_number(value) and 0 < value <= 1 for value in self.std):
            _refuse(self, "std", "in (0, 1]; divide deviations of 0-255 pixels by 255")
        self._check_together()

    def _check_together(self) -> None:
        """Refuses fields that contradict each other, or would have no effect."""

        def refuse(problem: str, *names: str) -> None:
            values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
            raise ValueError(f"{values}: {problem}")

        if self.block == "basic" and (
            self.groups > 1
            or self.group_width != 64
            or self.reduce_first > 1
            or self.stride_on_first
        ):
            refuse(
                "only bottlenecks have these",
                *("block", "groups", "group_width", "reduce_first", "stride_on_first"),
            )
        if self.stem == "conv7" and self.stem_width is not None:
            refuse(
                "only deep stems have a stem_width; a 7x7 has `width` filters",
                *("stem", "stem_width"),
            )
        if self.block == "bottleneck" and self.width * self.group_width < 64:
            refuse(
                "a group has no channel; width must be at least "
                f"{-(-64 // self.group_width)}",
                *("width", "group_width"),
            )
        if self.stem == "deep_tiered" and (self.stem_width or self.width // 2) < 4:
            refuse("stem_width must be at least 4", "stem", "width", "stem_width")
        if self.shortcut in ("zero_pad", "none") and (
            self.project_always or self.first_stage_projection
        ):
            refuse(
                "it has no projections; leave out project_always and "
                "first_stage_projection",
                *("shortcut", "project_always", "first_stage_projection"),
            )
        if self.shortcut == "none" and (self.zero_gamma or self.drop_path):
            refuse(
                "without a shortcut a block would give zeros; give zero_gamma=False "
                "and drop_path=0",
                *("shortcut", "zero_gamma", "drop_path"),
            )
        if self.projection_size > 1 and self.shortcut != "projection":
            refuse(
                "only shortcut='projection' has another kernel than 1x1",
                *("projection_size", "shortcut"),
            )
        if self.se_ratio != SE_RATIO and self.attention != "se":
            refuse("only attention='se' has a ratio", "se_ratio", "attention")
        if self.anti_alias:
            if len(self.depths) == 1:
                refuse(
                    "no stage strides, so there is nothing to smooth",
                    *("anti_alias", "depths"),
                )
            if self.stride_on_first:
                refuse(
                    "it is the 3x3 that is smoothed, so that the 3x3 must stride",
                    *("anti_alias", "stride_on_first"),
                )
            if self.stem_pool != "max":
                refuse(
                    "it replaces the max pool; leave out either",
                    *("anti_alias", "stem_pool"),
                )
        if any(
            width % (self.reduce_first * self.groups) for width in self.inner_widths
        ):
            refuse(
                f"the widths {self.inner_widths} of the 3x3 must divide by "
                "groups * reduce_first",
                *("groups", "reduce_first"),
            )
        if self.normalization == "group":
            if self.fused_batch_norm is not False:
                refuse(
                    "there is no batch normalization; give fused_batch_norm=False",
                    *("normalization", "fused_batch_norm"),
                )
            first = [width // self.reduce_first for width in self.inner_widths]
            outputs = [self.width * 2**stage for stage in range(len(self.depths))]
            for width in (*self.stem_filters, *self.inner_widths, *first, *outputs):
                if width % NORM_GROUPS:
                    refuse(
                        f"every normalized width must be a multiple of {NORM_GROUPS}, "
                        f"and one is {width}",
                        *("normalization", "width", "stem", "stem_width"),
                    )

    @property
    def stem_filters(self) -> tuple[int, ...]:
        """Filters of each convolution of the stem."""
        if self.stem == "conv7":
            return (self.width,)
        width = self.stem_width or max(self.width // 2, 1)
        first = 3 * (width // 4) if self.stem == "deep_tiered" else width
        return (first, width, 2 * width)

    @property
    def inner_widths(self) -> tuple[int, ...]:
        """Channels of the 3x3 in each stage."""
        return tuple(
            grouped_width(self.width * 2**stage, self.groups, self.group_width)
            for stage in range(len(self.depths))
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


def grouped_width(filters: int, groups: int, group_width: int) -> int:
    """Channels of a bottleneck's 3x3 (ResNeXt, arXiv 1611.05431)."""
    return filters * group_width // 64 * groups


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
    10: ("basic", (1, 1, 1, 1)),
    14: ("bottleneck", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    26: ("bottleneck", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
    201: ("bottleneck", (3, 24, 36, 4)),
    269: ("bottleneck", (3, 30, 48, 8)),
    270: ("bottleneck", (4, 29, 53, 4)),
    350: ("bottleneck", (4, 36, 72, 4)),
    420: ("bottleneck", (4, 44, 87, 4)),
}
LETTERED = (18, 26, 34, 50, 101, 152, 200)  # depths of which every letter is a variant
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


def _grouped(
    depth: int, groups: int, group_width: int, letter: str = "b", **fields: Any
) -> ResNetConfig:
    """A ResNeXt (arXiv 1611.05431)."""
    return _config(depth, letter, groups=groups, group_width=group_width, **fields)


def _rs(depth: int) -> ResNetConfig:
    """A ResNet-RS (arXiv 2103.07579 section 6)."""
    return _config(depth, "d", stem_pool="conv", attention="se", se_ratio=1 / 4)


VARIANTS: dict[str, ResNetConfig] = {
    f"resnet{depth}{letter}": _config(depth, letter)
    for letter in "abcd"
    for depth in LETTERED
    # there is no 1x1 to stride on in a basic block: a is b there
    if not (letter == "a" and _DEPTHS[depth][0] == "basic")
} | {
    # PaddleClas's own layouts where they differ from everybody else's
    "resnet18vd": _config(18, "d", first_stage_projection=True),
    "resnet34vd": _config(34, "d", first_stage_projection=True),
    "resnet200vd": _config(200, "d", depths=(3, 12, 48, 3)),
    "seresnet50d": _config(50, "d", attention="se"),
    "seresnet152d": _config(152, "d", attention="se"),
    "ecaresnet50d": _config(50, "d", attention="eca"),
    "ecaresnet101d": _config(101, "d", attention="eca"),
    "resnext50d_32x4d": _grouped(50, 32, 4, letter="d"),
    "seresnext26d_32x4d": _grouped(26, 32, 4, letter="d", attention="se"),
    "seresnext101d_32x8d": _grouped(101, 32, 8, letter="d", attention="se"),
    "resnet50t": _config(50, "t"),
    "resnet50s": _config(50, "s"),
    # timm's names, where a bare one is unambiguous: its stem is the 7x7 of b
    "resnet10t": _config(10, "t"),
    "resnet14t": _config(14, "t"),
    "resnet26t": _config(26, "t"),
    "resnet101s": _config(101, "s"),
    "resnet152s": _config(152, "s"),
    "resnet50_gn": _config(50, "b", normalization="group", fused_batch_norm=False),
    "wide_resnet50_2": _config(50, "b", group_width=128),  # arXiv 1605.07146
    "wide_resnet101_2": _config(101, "b", group_width=128),
    "resnext50_32x4d": _grouped(50, 32, 4),
    "resnext101_32x4d": _grouped(101, 32, 4),
    "resnext101_32x8d": _grouped(101, 32, 8),
    "resnext101_32x16d": _grouped(101, 32, 16),
    "resnext101_32x32d": _grouped(101, 32, 32),
    "resnext101_64x4d": _grouped(101, 64, 4),
    "seresnet50": _config(50, "b", attention="se"),
    "seresnext50_32x4d": _grouped(50, 32, 4, attention="se"),
    "seresnext101_32x4d": _grouped(101, 32, 4, attention="se"),
    "seresnext101_32x8d": _grouped(101, 32, 8, attention="se"),
    "seresnext101_64x4d": _grouped(101, 64, 4, attention="se"),
    "seresnext26t_32x4d": _grouped(26, 32, 4, letter="t", attention="se"),
    "senet154": _grouped(  # arXiv 1709.01507, at the end of section 6.1
        *(152, 64, 4),
        letter="s",
        attention="se",
        reduce_first=2,
        projection_size=3,
    ),
    "ecaresnet26t": _config(26, "t", attention="eca"),
    "ecaresnet50t": _config(50, "t", attention="eca"),
    "ecaresnet269d": _config(269, "d", attention="eca"),
    "ecaresnetlight": _config(
        50, "b", depths=(1, 1, 11, 3), shortcut="avg_pool", attention="eca"
    ),
    "resnetblur50": _config(50, "b", anti_alias="blur"),
    "resnetaa50": _config(50, "b", anti_alias="avg"),
    "resnetaa50d": _config(50, "d", anti_alias="avg"),
    "resnetaa101d": _config(101, "d", anti_alias="avg"),
    "seresnextaa101d_32x8d": _grouped(
        101, 32, 8, letter="d", attention="se", anti_alias="avg"
    ),
    "seresnextaa201d_32x8d": _grouped(
        201, 32, 8, letter="d", stem_width=64, attention="se", anti_alias="avg"
    ),
    "resnetrs50": _rs(50),
    "resnetrs101": _rs(101),
    "resnetrs152": _rs(152),
    "resnetrs200": _rs(200),
    "resnetrs270": _rs(270),
    "resnetrs350": _rs(350),
    "resnetrs420": _rs(420),
}
"""{name: ResNetConfig} of the published nets, as `keras-resnet list` shows them."""
_SPELLINGS = {
    "wide_": "Wide",
    "resnet": "ResNet",
    "resnext": "ResNeXt",
    "net": "Net",
    "blur": "Blur",
    "light": "Light",
    "_gn": "_GN",
}


def constructor_name(variant: str) -> str:
    """resnet50d -> ResNet50D, seresnextaa101d_32x8d -> SEResNeXtAA101D_32x8d."""
    match = re.fullmatch(
        r"(wide_|)(se|eca|)(resnet|resnext|net)(aa|blur|rs|light|)(\d*[a-z]*)(_\w+|)",
        variant,
    )
    assert match is not None, variant
    *words, rest = match.groups()
    spelled = "".join(_SPELLINGS.get(word, word.upper()) for word in words)
    return spelled + _SPELLINGS.get(rest, rest)


def list_models(pattern: str = "*") -> list[str]:
    """Names of VARIANTS that match a glob pattern, in the table's order."""
    return [name for name in VARIANTS if fnmatch.fnmatchcase(name, pattern.lower())]
