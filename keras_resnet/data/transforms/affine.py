"""The geometric operations of RandAugment: Pillow's affine transforms of an image."""

from __future__ import annotations

import math

import tensorflow as tf

MAX_LEVEL = 10
FILL = (124, 116, 104)  # ImageNet's mean color, for pixels from outside of the image


def rotate(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    angle = signed(math.radians(30), level, sign)  # counterclockwise
    cos, sin = tf.cos(angle), tf.sin(angle)
    height, width, _, _ = places(image)
    y, x = height / 2, width / 2  # the fixed point
    c, f = x - cos * x + sin * y, y - sin * x - cos * y
    return _move(image, cos, -sin, c, sin, cos, f)


def shear_x(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    return _move(image, b=signed(0.3, level, sign))


def shear_y(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    return _move(image, d=signed(0.3, level, sign))


def translate_x(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    _, width, _, _ = places(image)
    return _move(image, c=signed(0.45, level, sign) * width)


def translate_y(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    height, _, _, _ = places(image)
    return _move(image, f=signed(0.45, level, sign) * height)


def signed(most: float, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Returns sign * most * level / MAX_LEVEL."""
    return sign * (level / MAX_LEVEL * most)


def _move(
    image: tf.Tensor,
    a: tf.Tensor = 1.0,
    b: tf.Tensor = 0.0,
    c: tf.Tensor = 0.0,
    d: tf.Tensor = 0.0,
    e: tf.Tensor = 1.0,
    f: tf.Tensor = 0.0,
) -> tf.Tensor:
    """Pillow's `transform(AFFINE, (a, b, c, d, e, f), BILINEAR)`, filled with FILL.

    The pixel (u, v) of the result is the image at x = a u + b v + c, y = d u + e v + f.
    """
    # the first pixel spans 0 to 1 in Pillow, -0.5 to 0.5 in TensorFlow
    c, f = c + (a + b - 1) / 2, f + (d + e - 1) / 2
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[None],
        transforms=[[tf.cast(x, tf.float32) for x in (a, b, c, d, e, f, 0, 0)]],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",  # as Pillow does in the outer half of the border pixels
    )[0]
    height, width, v, u = places(image)
    y, x = d * u + e * v + f, a * u + b * v + c
    # Pillow truncates, so a tiny rounding error would turn 77 into 76
    moved = tf.cast(moved + 1e-3, tf.uint8)
    return tf.where(within(y + 0.5, x + 0.5, height, width), moved, FILL)


def places(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns (H, W, row numbers [H, 1], column numbers [1, W]), all float64."""
    sides = tf.cast(tf.shape(image), tf.float64)
    return sides[0], sides[1], tf.range(sides[0])[:, None], tf.range(sides[1])[None]


def within(
    y: tf.Tensor, x: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Whether each point is in [0, height) x [0, width): bool [H, W, 1]."""
    return ((y >= 0) & (y < height) & (x >= 0) & (x < width))[..., None]
