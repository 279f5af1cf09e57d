"""Pillow's resize, reproduced exactly with banded matrix products of TensorFlow."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

INTERPOLATIONS = ("bicubic", "bilinear")
_BLOCK = 16  # pixels per product; wider blocks multiply more zeros
_ONE = 2**22  # Pillow's weights are multiples of 1 / _ONE
_LOW = 2**7  # a weight's last bits, whose products are summed on their own

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
    weights are rounded as in Pillow. Each is the sum of two numbers of few bits, whose
    products with pixels and sums are whole numbers below 2^24, and so exact in float32,
    for up to 1,028 source pixels for one pixel, which is shrinking by 257. (With whole
    weights in float32, one pixel in 10,000 would be off by one level, and 6 % where
    ties are common, as when small images are enlarged.)

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
    with tf.device("CPU"):  # a GPU's matrix products may round to fewer bits
        shape = tf.shape(image)
        down = _bands(shape[0], height, top, rows, interpolation)
        across = _bands(shape[1], width, left, columns, interpolation)
        first, last = down.starts[0], down.starts[-1] + down.length
        left, right = across.starts[0], across.starts[-1] + across.length
        image = image[first:last, left:right]
        image = tf.transpose(tf.reshape(image, [last - first, -1]))  # [W * 3, H]
        image = tf.reshape(image, [right - left, -1])
        image = _resize_rows(image, across, columns)
        image = tf.transpose(tf.reshape(image, [-1, last - first]))
        return tf.reshape(_resize_rows(image, down, rows), [rows, columns, 3])


class _Bands(NamedTuple):
    """The weights for one axis of the result, in blocks of _BLOCK pixels."""

    weights: Any  # float32 [blocks, 2 * _BLOCK, length], high parts before low ones
    starts: Any  # int32 [blocks], the first source pixel of each block
    length: Any  # int32, the number of source pixels of each block


def _bands(
    before: Size, after: Size, first: Size, count: Size, interpolation: str
) -> _Bands:
    """Pillow's weights for pixels `first` to `first` + `count` of the resized axis."""
    radius = {"bicubic": 2.0, "bilinear": 1.0}[interpolation]
    scale = tf.cast(before, tf.float64) / tf.cast(after, tf.float64)
    stretch = tf.maximum(scale, 1.0)  # antialiasing widens the filter when shrinking
    reach = radius * stretch
    blocks = -(-count // _BLOCK)
    # the last block may reach beyond the result
    pixels = tf.minimum(first + tf.range(blocks * _BLOCK), after - 1)
    centers = (tf.cast(pixels, tf.float64)[:, None] + 0.5) * scale
    begins = tf.floor(centers - reach + 0.5)
    width = tf.cast(tf.math.ceil(2 * reach), tf.int32) + 1
    taps = begins + tf.cast(tf.range(-1, width + 1), tf.float64)  # a zero at each end
    distances = tf.abs(taps + 0.5 - centers) * (1 / stretch)
    weights = _cubic(distances) if radius == 2 else tf.nn.relu(1 - distances)
    is_inside = (taps >= 0) & (taps < tf.cast(before, tf.float64))
    weights = tf.where(is_inside, weights, tf.zeros([], tf.float64))
    weights /= tf.reduce_sum(weights, -1, keepdims=True)
    fixed_point = tf.sign(weights) * tf.floor(tf.abs(weights) * _ONE + 0.5)
    low = fixed_point / _LOW
    high = tf.round(low)
    halves = [tf.reshape(it, [blocks, _BLOCK, -1]) for it in (high, low - high)]
    halves = tf.cast(tf.stack(halves, 1), tf.float32)
    # in its block's row of weights, a pixel's own begin where its first tap lies
    begins = tf.reshape(tf.cast(begins, tf.int32), [blocks, _BLOCK])
    length = tf.cast(tf.math.ceil(_BLOCK * scale), tf.int32) + width + 1
    length = tf.minimum(length, before)
    starts = tf.clip_by_value(begins[:, 0], 0, before - length)
    places = tf.range(length) + (starts[:, None] - begins)[..., None] + 1
    places = tf.clip_by_value(places, 0, width + 1)
    rows = tf.gather(halves, tf.stack([places, places], 1), batch_dims=3)
    return _Bands(tf.reshape(rows, [blocks, 2 * _BLOCK, length]), starts, length)


def _cubic(x: tf.Tensor) -> tf.Tensor:
    """Keys's cubic kernel with a = -1/2, for x >= 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return tf.where(x < 1, near, tf.where(x < 2, far, tf.zeros_like(x)))


def _resize_rows(image: tf.Tensor, bands: _Bands, count: Size) -> tf.Tensor:
    """Resizes the first axis of uint8 [L, M], from the first pixel of the bands."""

    # uint8 between the products, so that operands fit into the cache of a core
    def product(block: Size) -> tf.Tensor:
        start = bands.starts[block] - bands.starts[0]
        taps = tf.cast(image[start : start + bands.length], tf.float32)
        sums = tf.linalg.matmul(bands.weights[block], taps)
        levels = (sums[:_BLOCK] + tf.floor(sums[_BLOCK:])) * (_LOW / _ONE)
        # halves are rounded up, as in Pillow
        return tf.cast(tf.clip_by_value(levels + 0.5, 0.0, 255.5), tf.uint8)

    blocks = -(-count // _BLOCK)
    if isinstance(count, int):
        return tf.concat([product(block) for block in range(blocks)], 0)[:count]
    kind = tf.TensorSpec([_BLOCK, None], tf.uint8)
    stacked = tf.map_fn(product, tf.range(blocks), fn_output_signature=kind)
    return tf.reshape(stacked, [blocks * _BLOCK, -1])[:count]
