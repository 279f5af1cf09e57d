"""A ResNetConfig -> the plan of its net: every stem convolution and block, in order."""

from __future__ import annotations

import math
from dataclasses import dataclass

from keras_resnet.config import ResNetConfig


@dataclass(frozen=True)
class StemPlan:
    """A stem: convolutions, of which the first has stride 2, and a pool of stride 2.

    Attributes:
        kernel_size: of each convolution.
        filters: of each convolution.
        pool: "max"; "conv", a 3x3 convolution; or what takes the max pool's place in an
            anti-aliased net: "avg", or "blur" after a maximum at stride 1.
    """

    kernel_size: int
    filters: tuple[int, ...]
    pool: str


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
        projection_size: kernel of the shortcut's convolution, where there is one.
        anti_alias: what follows the 3x3 that would stride, "avg" or "blur"; None where
            nothing does.
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
    projection_size: int
    anti_alias: str | None
    drop_path: float


def plan_stem(config: ResNetConfig) -> StemPlan:
    """The stem of a net."""
    kernel_size = 7 if config.stem == "conv7" else 3
    pool = config.anti_alias or config.stem_pool
    return StemPlan(kernel_size, config.stem_filters, pool)


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
        # where a stage dilates, the blur stays, as in timm; a pool of stride 1 is none
        dilates = first_dilation != dilation
        smooths = stride > 1 or (dilates and config.anti_alias == "blur")
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
                projection_size=(
                    config.projection_size
                    if (is_first and stride > 1) or dilation > 1
                    else 1
                ),
                anti_alias=config.anti_alias if is_first and smooths else None,
                drop_path=config.drop_path * len(blocks) / last,
            )
            blocks.append(block)
            channels = block.outputs
    return blocks


def se_width(channels: int, ratio: float) -> int:
    """Inner channels of squeeze-and-excitation: a multiple of 8, as in timm."""
    return max(8, int(channels * ratio + 4) // 8 * 8)


def eca_kernel_size(channels: int) -> int:
    """Odd, |log2(C) + 1| / 2 and at least 3 (arXiv 1910.03151, timm)."""
    return max(3, int(abs(math.log2(channels) + 1) / 2) | 1)
