"""Random erasing: replaces a rectangle of an image by noise."""

from __future__ import annotations

import math

import tensorflow as tf

from keras_resnet.data.transforms.affine import places, within

ERASED_AREA = (0.02, 1 / 3)  # as a fraction of the image's area
ERASED_ASPECT = (0.3, 1 / 0.3)  # height over width


def random_erase(image: tf.Tensor, seed: tf.Tensor, probability: float) -> tf.Tensor:
    """Fills a random rectangle with random pixels: arXiv 1708.04896, RE-R.

    Args:
        image: uint8 [H, W, 3].
        seed: int64 pair; the same seed gives the same pixels.
        probability: the probability that a rectangle is erased, in [0, 1].

    Returns:
        uint8 [H, W, 3], with independent uniform values in one rectangle. Its area is
        uniform in ERASED_AREA, its aspect ratio log-uniform in ERASED_ASPECT. The image
        is unchanged if none of 10 such rectangles fits.

    Raises:
        ValueError: the probability is out of range.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability}: must be in [0, 1]")
    image = tf.convert_to_tensor(image, tf.uint8)
    seeds = tf.random.experimental.stateless_split(seed, 3)

    def erase() -> tf.Tensor:
        _, _, v, u = places(image)
        top, left, height, width = _rectangle(tf.shape(image), seeds[1])
        noise = tf.random.stateless_uniform(
            tf.shape(image)[:2], seeds[2], None, None, tf.uint32
        )
        noise = tf.bitcast(noise, tf.uint8)[..., :3]  # three of the four bytes
        return tf.where(within(v - top, u - left, height, width), noise, image)

    is_erased = tf.random.stateless_uniform([], seeds[0]) < probability
    return tf.ensure_shape(tf.cond(is_erased, erase, lambda: image), image.shape)


def _rectangle(shape: tf.Tensor, seed: tf.Tensor, tries: int = 10) -> list[tf.Tensor]:
    """The first rectangle that fits: top, left, height and width, or zeros; float64."""
    low, high = zip(ERASED_AREA, map(math.log, ERASED_ASPECT), (0, 1), (0, 1))
    draws = tf.random.stateless_uniform([tries, 4], seed, low, high, tf.float64)
    sides = tf.cast(shape[:2], tf.float64)
    area, aspect = tf.reduce_prod(sides) * draws[:, 0], tf.exp(draws[:, 1])
    sizes = tf.round(tf.sqrt(tf.stack([area * aspect, area / aspect], 1)))
    corners = tf.floor(draws[:, 2:] * (sides - sizes + 1))
    fits = tf.reduce_all(sizes < sides, 1, keepdims=True)
    boxes = tf.where(fits, tf.concat([corners, sizes], 1), 0.0)
    return tf.unstack(boxes[tf.argmax(tf.cast(fits[:, 0], tf.int32))])
