"""The crops of evaluation, which prediction and serving share."""

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
    """Resizes the short side to size / crop_pct and crops the middle, as timm does.

    Args:
        image: uint8 [H, W, 3].
        size: the side of the result in pixels.
        crop_pct: the ratio of that side to the resized short side, in (0, 1].
        interpolation: "bicubic" or "bilinear", both antialiased.

    Returns:
        uint8 [size, size, 3], within 1 level of torchvision's Resize and CenterCrop of
        a Pillow picture.
    """
    height, width = _shrunk(image, short_side(size, crop_pct))
    # Python's round of a half goes to the even number, and so torchvision's crop
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
    """The four corners and the middle, and their mirrors (AlexNet; 1512.03385 sec. 4).

    The arguments are those of `eval_crop`.

    Returns:
        uint8 [10, size, size, 3]: top left, top right, bottom left, bottom right,
        middle, then the five mirrored, as torchvision's TenCrop.
    """
    height, width = _shrunk(image, short_side(size, crop_pct))
    bottom, right = height - size, width - size
    middle = tf.unstack(tf.cast(tf.round(tf.stack([bottom, right]) / 2), tf.int32))
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), middle]
    # one by one, as the whole of a very long resized picture may not fit in memory
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
    """The whole picture with a short side of `short` pixels: uint8 [H, W, 3].

    Raises:
        tf.errors.InvalidArgumentError: it would have more than MAX_PIXELS pixels.
    """
    height, width = _shrunk(image, short)
    with tf.control_dependencies([check_size(height, width)]):
        height = tf.identity(height)
    return resize_as_pillow(image, height, width, interpolation)


def short_side(size: int, crop_pct: float) -> int:
    """The resized short side, of which the crop takes `size` pixels."""
    if not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct={crop_pct}: must be in (0, 1]")
    return math.floor(size / crop_pct)


def _shrunk(image: tf.Tensor, short: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(height, width) with this short side; the long one is cut to whole pixels."""
    height, width = tf.unstack(tf.shape(image)[:2])
    return (
        tf.where(width < height, short * height // width, short),
        tf.where(width < height, short, short * width // height),
    )


def load_eval(data: tf.Tensor | bytes, protocol: Protocol) -> tf.Tensor:
    """Encoded bytes -> the model's input in evaluation, prediction and serving."""
    return eval_crop(
        decode_image(data), protocol.size, protocol.crop_pct, protocol.interpolation
    )
