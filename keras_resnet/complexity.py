"""What a net costs, by arithmetic over its ResNetConfig: parameters, multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Iterator

from keras_resnet.config import ResNetConfig

# (weights of a kernel, positions it is applied at, parameters beside it)
_Cost = tuple[int, int, int]


def complexity(config: ResNetConfig, size=224, classes=1000) -> tuple[int, int]:
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
        Normalisation, pooling and sums are not counted: tools that do give 0.5 % more.
    """
    costs = list(_costs(config, size, classes))
    parameters = sum(weights + beside for weights, _, beside in costs)
    return parameters, sum(weights * positions for weights, positions, _ in costs)


def _costs(config, size, classes) -> Iterator[_Cost]:
    """Of every layer that has a kernel, from the stem to the classifier."""
    side, channels = -(-size // 2), len(config.mean)
    for kernel, filters in _stem(config):
        yield _conv(kernel, channels, filters, side)
        channels = filters
    side = -(-side // 2)
    net_stride = 4
    for stage, depth in enumerate(config.depths):
        filters = config.width * 2**stage
        for index in range(depth):
            stride = 2 if stage and not index else 1
            if net_stride * stride > config.output_stride:
                stride = 1  # it dilates instead
            net_stride *= stride
            project = config.project_always or (
                config.first_stage_projection and stage == index == 0
            )
            yield from _block(config, channels, filters, side, stride, project)
            side = -(-side // stride)
            channels = _outputs(config, filters)
    yield channels * classes, 1, classes


def _stem(config):
    """(kernel size, filters) of its convolutions, the first of which has stride 2."""
    if config.stem == "conv7":
        return [(7, config.width)]
    width = config.stem_width or max(config.width // 2, 1)
    first = 3 * (width // 4) if config.stem == "deep_tiered" else width
    return [(3, first), (3, width), (3, 2 * width)]


def _block(config, channels, filters, side, stride, project) -> Iterator[_Cost]:
    outputs, after = _outputs(config, filters), -(-side // stride)
    if config.block == "basic":
        yield _conv(3, channels, filters, after)
        yield _conv(3, filters, filters, after)
    else:
        inner = filters * config.group_width // 64 * config.groups
        first = after if config.stride_on_first else side
        yield _conv(1, channels, inner, first)
        yield _conv(3, inner, inner, after, config.groups)
        yield _conv(1, inner, outputs, after)
    if config.attention == "se":
        inner = max(8, (outputs // 16 + 4) // 8 * 8)
        yield outputs * inner, 1, inner
        yield inner * outputs, 1, outputs
    if config.attention == "eca":
        yield int((math.log2(outputs) + 1) / 2) | 1, outputs, 0  # odd, upwards
    changes = stride > 1 or channels != outputs
    if (changes or project) and config.shortcut != "zero_pad":
        yield _conv(1, channels, outputs, after)


def _outputs(config, filters):
    return filters if config.block == "basic" else 4 * filters


def _conv(kernel, inputs, outputs, side, groups=1) -> _Cost:
    """Without bias, with the gamma and beta of the normalisation after it."""
    return kernel**2 * inputs // groups * outputs, side**2, 2 * outputs
