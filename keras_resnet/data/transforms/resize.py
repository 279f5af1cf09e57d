"""Pillow's resize, reproduced exactly with banded matrix products of TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

INTERPOLATIONS = ("bicubic", "bilinear")
_BLOCK = 32  # columns or rows per product; wider blocks multiply more zeros
_ONE = 2**22  # Pillow's weights are multiples of 1 / _ONE


Size: TypeAlias = tf.Tensor | int


def resize_as_pillow(
    image: tf.Tensor,
    height: Size,
    width: Size,
    interpolation: str = "bicubic",
    window: tuple[Size, Size, Size, Size] | None = None,
) -> tf.Tensor:
    """Resizes an image with antialiasing, exactly as Pillow does.

    A horizontal pass precedes a vertical one, and each is rounded to 8 bits. The
    weights are rounded as in Pillow, and their products and sums are exact in float64.
    (In float32, one pixel in 10,000 would be off by one level, and 6 % where ties are
    common, as when small images are enlarged.)

    Args:
        image: uint8 [H, W, 3].
        height, width: the size of the whole result in pixels, as integers or tensors.
        interpolation: "bicubic" (Keys, a = -1/2) or "bilinear" (triangle filter).
        window: (top, left, rows, columns), the part of the result to compute; None
            computes all. With Python integers as rows and columns, the graph has no
            loop.

    Returns:
        uint8 [rows, columns, 3], the pixels of Pillow's `Image.resize`.

    Raises:
        ValueError: the interpolation is not one of these.
    """
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"interpolation={interpolation!r}: must be one of {INTERPOLATIONS}"
        )
    top, left, rows, columns = window or (0, 0, height, width)
    shape = tf.shape(image)
    down = _bands(shape[0], height, top, rows, interpolation)
    across = _bands(shape[1], width, left, columns, interpolation)
    first, last = down.starts[0], down.starts[-1] + down.length
    left, right = across.starts[0], across.starts[-1] + across.length
    # uint8 between the two passes, so that operands fit into the cache of a core
    image = tf.transpose(image[first:last, left:right], [2, 0, 1])

    def resize_columns(block: Size) -> tf.Tensor:
        start = across.starts[block] - left
        taps = image[:, :, start : start + across.length]
        taps = tf.reshape(taps, [-1, across.length])  # all channels in one product
        return _multiply(taps, across.weights[block], transpose_b=True)

    image = _join(resize_columns, columns)[:, :columns]
    image = tf.reshape(image, [3, last - first, columns])

    def resize_rows(block: Size) -> tf.Tensor:
        start = down.starts[block] - first
        taps = image[:, start : start + down.length]
        return _multiply(down.weights[block][None], taps)

    image = tf.transpose(_join(resize_rows, rows)[:, :rows], [1, 2, 0])
    return tf.reshape(image, [rows, columns, 3])


class _Bands(NamedTuple):
    """The weights for one axis of the result, in blocks of _BLOCK pixels."""

    weights: Any  # float64 [blocks, _BLOCK, length]
    starts: Any  # int32 [blocks], the first source pixel of each block
    length: Any  # int32, the number of source pixels of each block


def _bands(
    before: Size, after: Size, first: Size, count: Size, interpolation: str
) -> _Bands:
    """Pillow's weights for pixels `first` to `first` + `count` of the resized axis."""
    radius = {"bicubic": 2.0, "bilinear": 1.0}[interpolation]
    scale = tf.cast(before, tf.float64) / tf.cast(after, tf.float64)
    stretch = tf.maximum(scale, 1.0)  # antialiasing widens the filter when shrinking
    length = tf.cast(tf.math.ceil(_BLOCK * scale + 2 * radius * stretch), tf.int32) + 2
    length = tf.minimum(length, before)
    pixels = first + tf.range(_blocks(count) * _BLOCK)
    # the last block may reach beyond the result
    pixels = tf.reshape(tf.minimum(pixels, after - 1), [-1, _BLOCK, 1])
    centers = (tf.cast(pixels, tf.float64) + 0.5) * scale
    starts = tf.cast(tf.floor(centers[:, 0, 0] - radius * stretch + 0.5), tf.int32)
    starts = tf.clip_by_value(starts, 0, before - length)
    taps = tf.cast(starts[:, None] + tf.range(length), tf.float64) + 0.5
    distances = tf.abs(taps[:, None] - centers) * (1 / stretch)
    weights = _cubic(distances) if radius == 2 else tf.nn.relu(1 - distances)
    weights /= tf.reduce_sum(weights, -1, keepdims=True)
    fixed_point = tf.sign(weights) * tf.floor(tf.abs(weights) * _ONE + 0.5)
    return _Bands(fixed_point / _ONE, starts, length)


def _cubic(x: tf.Tensor) -> tf.Tensor:
    """Keys's cubic kernel with a = -1/2, for x >= 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return tf.where(x < 1, near, tf.where(x < 2, far, tf.zeros_like(x)))


def _multiply(a: tf.Tensor, b: tf.Tensor, transpose_b: bool = False) -> tf.Tensor:
    """The product as uint8, computed in float64, halves rounded up as in Pillow."""
    a, b = tf.cast(a, tf.float64), tf.cast(b, tf.float64)
    levels = tf.linalg.matmul(a, b, transpose_b=transpose_b) + 0.5
    return tf.cast(tf.clip_by_value(levels, tf.zeros([], tf.float64), 255.5), tf.uint8)


def _blocks(count: Size) -> Size:
    return -(-count // _BLOCK)


def _join(product: Callable[[Size], tf.Tensor], count: Size) -> tf.Tensor:
    """Concatenates the products of all blocks along the second axis."""
    if isinstance(count, int):
        return tf.concat([product(block) for block in range(_blocks(count))], 1)
    # map_fn stacks the blocks along the first axis, which is moved to the second
    stacked = tf.map_fn(product, tf.range(_blocks(count)), fn_output_signature=tf.uint8)
    shape = tf.shape(stacked)
    order = [1, 0, *range(2, stacked.shape.rank)]
    joined = [shape[1], shape[0] * shape[2], *tf.unstack(shape[3:])]
    return tf.reshape(tf.transpose(stacked, order), joined)
