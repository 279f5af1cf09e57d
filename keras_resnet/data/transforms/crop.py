"""The crops of evaluation, which prediction and serving use too."""

from __future__ import annotations

import math

import tensorflow as tf

from keras_resnet.data.transforms.decode import check_size, decode_image
from keras_resnet.data.transforms.resize import resize_as_pillow
from keras_resnet.info import Protocol


def eval_crop(
    image: tf.Tensor,
    size: int = 224,
    crop_pct: float = 0.875,
    interpolation: str = "bicubic",
) -> tf.Tensor:
    """Resizes the short side to size / crop_pct and crops the center, as timm does.

    Args:
        image: uint8 [H, W, 3].
        size: the side of the result in pixels.
        crop_pct: the ratio of that side to the resized short side, in (0, 1].
        interpolation: "bicubic" or "bilinear", both antialiased.

    Returns:
        uint8 [size, size, 3], within 1 level of torchvision's Resize and CenterCrop of
        a Pillow image.

    Raises:
        ValueError: crop_pct or interpolation is not one of these.
    """
    height, width = _resized_shape(image, short_side(size, crop_pct))
    # tf.round rounds halves to even, as Python's round in torchvision's CenterCrop does
    top = tf.cast(tf.round((height - size) / 2), tf.int32)
    left = tf.cast(tf.round((width - size) / 2), tf.int32)
    window = (top, left, size, size)
    return resize_as_pillow(image, height, width, interpolation, window)


def ten_crop(
    image: tf.Tensor,
    size: int = 224,
    crop_pct: float = 0.875,
    interpolation: str = "bicubic",
) -> tf.Tensor:
    """Takes the four corner crops and the center crop, and mirrors all five.

    Sources: the AlexNet paper; arXiv 1512.03385 section 4. The arguments are those of
    `eval_crop`.

    Returns:
        uint8 [10, size, size, 3]: top left, top right, bottom left, bottom right,
        center, then the five mirrored, in the order of torchvision's TenCrop.
    """
    height, width = _resized_shape(image, short_side(size, crop_pct))
    bottom, right = height - size, width - size
    middle = tf.unstack(tf.cast(tf.round(tf.stack([bottom, right]) / 2), tf.int32))
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), middle]
    # one crop at a time, as a very long image may not fit into memory once resized
    crops = tf.stack(
        [
            resize_as_pillow(image, height, width, interpolation, (*place, size, size))
            for place in places
        ]
    )
    return tf.concat([crops, tf.reverse(crops, [2])], 0)


def resize_short(
    image: tf.Tensor, short: int, interpolation: str = "bicubic"
) -> tf.Tensor:
    """Resizes the whole image to a short side of `short` pixels: uint8 [H, W, 3].

    Raises:
        tf.errors.InvalidArgumentError: the result would exceed MAX_PIXELS pixels.
    """
    height, width = _resized_shape(image, short)
    with tf.control_dependencies([check_size(height, width)]):
        height = tf.identity(height)
    return resize_as_pillow(image, height, width, interpolation)


def short_side(size: int, crop_pct: float) -> int:
    """The short side in pixels to resize to before a crop of `size` pixels."""
    if not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct={crop_pct}: must be in (0, 1]")
    return math.floor(size / crop_pct)


def _resized_shape(image: tf.Tensor, short: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The (height, width) that have this short side; the long side is rounded down."""
    height, width = tf.unstack(tf.shape(image)[:2])
    return (
        tf.where(width < height, short * height // width, short),
        tf.where(width < height, short, short * width // height),
    )


def load_eval(data: tf.Tensor | bytes, protocol: Protocol) -> tf.Tensor:
    """Decodes and crops an image file for evaluation, prediction and serving."""
    size, crop_pct = protocol.size, protocol.crop_pct
    least = short_side(size, crop_pct) if protocol.scaled_decode else None
    image = decode_image(data, least=least)
    return eval_crop(image, size, crop_pct, protocol.interpolation)
