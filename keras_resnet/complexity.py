"""What a net consists of and costs, by arithmetic over its ResNetConfig."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from keras_resnet.config import ResNetConfig, grouped_width, python_scalar
from keras_resnet.plan import (
    BlockPlan,
    eca_kernel_size,
    plan_blocks,
    plan_stem,
    se_width,
)


@dataclass(frozen=True)
class _Kernel:
    """A layer that has a kernel, and how often the kernel is applied."""

    module: str
    shape: tuple[int, ...]
    positions: int
    companion: str  # "norm", "bias" or "": what else has a value an output


def complexity(
    config: ResNetConfig, size: int = 224, classes: int = 1000
) -> tuple[int, int]:
    """The trainable parameters and the multiply-adds of a net, without building it.

    Args:
        config: of the net.
        size: side of the square input in pixels; it matters to the multiply-adds only.
        classes: of the classifier; 0 is a net without one.

    Returns:
        (parameters, multiply_adds). Parameters are what an optimizer trains: kernels,
        biases, gammas and betas, without moving statistics. Multiply-adds are of one
        picture, in the convolutions (attention's too) and the classifier; divided by
        1e9 they are the GMACs of arXiv 1812.01187 table 5, which calls them FLOPs.
        Normalization, pooling and sums are not counted; tools that count them give
        0.5 % more.
    """
    size, classes = python_scalar(size), python_scalar(classes)
    values = {"norm": 2, "bias": 1, "": 0}
    parameters = multiply_adds = 0
    for kernel in _kernels(config, size, classes):
        weights = math.prod(kernel.shape)
        parameters += weights + values[kernel.companion] * kernel.shape[-1]
        multiply_adds += weights * kernel.positions
    return parameters, multiply_adds


def variable_shapes(
    config: ResNetConfig, classes: int = 1000
) -> dict[str, tuple[int, ...]]:
    """{path: shape} of every weight of a net, in the order of `model.weights`.

    Paths are the model's: `stem/conv1/conv/kernel`, `stem/conv1/norm/gamma`, ...,
    `head/bias`. With 0 classes there is no head.
    """
    shapes = {}
    for kernel in _kernels(config, 224, classes):
        outputs = kernel.shape[-1:]
        shapes[f"{kernel.module}/kernel"] = kernel.shape
        if kernel.companion == "norm":
            norm = f"{kernel.module.removesuffix('conv')}norm"
            statistics = ("moving_mean", "moving_variance")
            is_batch = config.normalization == "batch"
            for leaf in ("gamma", "beta", *(statistics if is_batch else ())):
                shapes[f"{norm}/{leaf}"] = outputs
        elif kernel.companion:
            shapes[f"{kernel.module}/bias"] = outputs
    return shapes


def _kernels(config: ResNetConfig, size: int, classes: int) -> Iterator[_Kernel]:
    """From the stem to the classifier, with a bias for a folded normalization."""
    for kernel in _walk(config, size, classes):
        if kernel.companion == "norm" and config.fused_batch_norm is None:
            kernel = dataclasses.replace(kernel, companion="bias")
        yield kernel


def _walk(config: ResNetConfig, size: int, classes: int) -> Iterator[_Kernel]:
    side, channels = -(-size // 2), len(config.mean)
    stem = plan_stem(config)
    for number, filters in enumerate(stem.filters, start=1):
        yield _conv(f"stem/conv{number}", stem.kernel_size, channels, filters, side)
        channels = filters
    side = -(-side // 2)
    if stem.pool == "conv":
        yield _conv("stem/pool", 3, channels, channels, side)
    for block in plan_blocks(config):
        yield from _block(block, config, side)
        side, channels = -(-side // block.stride), block.outputs
    if classes:
        yield _Kernel("head", (channels, classes), 1, "bias")


def _block(block: BlockPlan, config: ResNetConfig, side: int) -> Iterator[_Kernel]:
    name, filters, outputs = block.name, block.filters, block.outputs
    after = -(-side // block.stride)
    strided = side if block.anti_alias else after  # where the 3x3 is computed
    if config.block == "basic":
        yield _conv(f"{name}/conv1", 3, block.inputs, filters, strided)
        yield _conv(f"{name}/conv2", 3, filters, filters, after)
    else:
        inner = grouped_width(filters, config.groups, config.group_width)
        reduced = inner // config.reduce_first
        first = after if config.stride_on_first else side
        yield _conv(f"{name}/conv1", 1, block.inputs, reduced, first)
        yield _conv(f"{name}/conv2", 3, reduced, inner, strided, config.groups)
        yield _conv(f"{name}/conv3", 1, inner, outputs, after)
    if config.attention == "se":
        inner = se_width(outputs, config.se_ratio)
        yield _Kernel(f"{name}/attention/fc1", (1, 1, outputs, inner), 1, "bias")
        yield _Kernel(f"{name}/attention/fc2", (1, 1, inner, outputs), 1, "bias")
    if config.attention == "eca":
        size = eca_kernel_size(outputs)
        yield _Kernel(f"{name}/attention/conv", (size, 1, 1), outputs, "")
    is_identity = block.stride == 1 and block.inputs == outputs and not block.project
    if not is_identity and config.shortcut in ("projection", "avg_pool"):
        size = block.projection_size
        yield _conv(f"{name}/shortcut/projection", size, block.inputs, outputs, after)


def _conv(
    module: str, size: int, inputs: int, outputs: int, side: int, groups: int = 1
) -> _Kernel:
    shape = (size, size, inputs // groups, outputs)
    return _Kernel(f"{module}/conv", shape, side**2, "norm")
