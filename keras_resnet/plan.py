"""A ResNetConfig -> the plan of its net: every stem convolution and block, in order."""

from __future__ import annotations

import math
from dataclasses import dataclass

from keras_resnet.config import ResNetConfig


@dataclass(frozen=True)
class StemPlan:
    """The convolutions of a stem, of which the first has stride 2; a maximum follows.

    Attributes:
        kernel_size: of each.
        filters: of each.
    """

    kernel_size: int
    filters: tuple[int, ...]


@dataclass(frozen=True)
class BlockPlan:
    """What a residual block is told, beside what all blocks of a net share.

    Attributes:
        name: of the layer.
        inputs: channels that come in.
        filters: of the 3x3; the stage's width.
        outputs: channels that go out.
        stride: 1 or 2.
        dilation: of the 3x3.
        first_dilation: of a stage's first block; None in the others.
        project: whether the shortcut is no identity though the shapes agree.
        drop_path: probability that a sample skips the branch in training.
    """

    name: str
    inputs: int
    filters: int
    outputs: int
    stride: int
    dilation: int
    first_dilation: int | None
    project: bool
    drop_path: float


def plan_stem(config: ResNetConfig) -> StemPlan:
    """The stem of a net."""
    if config.stem == "conv7":
        return StemPlan(7, (config.width,))
    width = config.stem_width or max(config.width // 2, 1)
    first = 3 * (width // 4) if config.stem == "deep_tiered" else width
    return StemPlan(3, (first, width, 2 * width))


def plan_blocks(config: ResNetConfig) -> list[BlockPlan]:
    """Every block of a net, in order.

    Beyond `output_stride` a stage dilates instead of striding; its first block still
    sees the former stage's grid. Drop-path rates rise linearly from 0 to the config's.
    """
    blocks: list[BlockPlan] = []
    channels = plan_stem(config).filters[-1]
    last = max(sum(config.depths) - 1, 1)
    net_stride, dilation = 4, 1
    for stage, depth in enumerate(config.depths, start=1):
        stride, first_dilation = (1 if stage == 1 else 2), dilation
        if net_stride * stride > config.output_stride:
            dilation, stride = dilation * stride, 1
        net_stride *= stride
        filters = config.width * 2 ** (stage - 1)
        for index in range(depth):
            is_first = index == 0
            block = BlockPlan(
                name=f"stage{stage}_block{index}",
                inputs=channels,
                filters=filters,
                outputs=filters if config.block == "basic" else 4 * filters,
                stride=stride if is_first else 1,
                dilation=dilation,
                first_dilation=first_dilation if is_first else None,
                project=config.project_always
                or (config.first_stage_projection and stage == 1 and is_first),
                drop_path=config.drop_path * len(blocks) / last,
            )
            blocks.append(block)
            channels = block.outputs
    return blocks


def grouped_width(filters: int, groups: int, group_width: int) -> int:
    """Channels of a bottleneck's 3x3 (ResNeXt, arXiv 1611.05431)."""
    return int(filters * group_width / 64) * groups


def se_width(channels: int, ratio: float) -> int:
    """Inner channels of squeeze-and-excitation: a multiple of 8, as in timm."""
    return max(8, int(channels * ratio + 4) // 8 * 8)


def eca_kernel_size(channels: int) -> int:
    """Odd, |log2(C) + 1| / 2 and at least 3 (arXiv 1910.03151, timm)."""
    return max(3, int(abs(math.log2(channels) + 1) / 2) | 1)
