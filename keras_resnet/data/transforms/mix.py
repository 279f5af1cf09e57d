"""Mixup and CutMix, which combine two images and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

Seed: TypeAlias = tf.Tensor | Sequence[int]


def mixup(
    images: tf.Tensor,
    labels: tf.Tensor,
    alpha: float,
    seed: Seed,
    adjacent: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blends each image with the one at the mirrored place in the batch.

    Image i is blended with image B - 1 - i (arXiv 1710.09412). All images of a batch
    have the same share ~ Beta(alpha, alpha), as in the published scripts.

    Args:
        images: [B, H, W, 3], of any real type.
        labels: [B, K] of a floating type, one-hot or already mixed.
        alpha: the parameter of the Beta distribution, above 0; 0.2 in arXiv 1812.01187.
        seed: a pair of integers, which determine the share.
        adjacent: whether the other image is the neighbour in a batch of pairs, image 1
            for image 0 and image 0 for image 1, instead of the mirrored one.

    Returns:
        (images, labels): images in their own type if it is floating, else in float32;
        labels in their own type. The share is drawn and applied in float32.

    Raises:
        ValueError: labels are class numbers, or alpha is not above 0.
    """
    images, labels = _checked(images, labels, alpha, "mixup")
    share = draw_beta(alpha, seed)
    kind = images.dtype if images.dtype.is_floating else tf.float32
    blended = _blend(images, share, kind, adjacent)
    return blended, _blend(labels, share, labels.dtype, adjacent)


def cutmix(
    images: tf.Tensor,
    labels: tf.Tensor,
    alpha: float,
    seed: Seed,
    adjacent: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pastes into each image a box from the one at the mirrored place in the batch.

    Image i receives a box of image B - 1 - i (arXiv 1905.04899), the same box for all
    images of a batch. It has 1 - share of the area, with share ~ Beta(alpha, alpha).
    Its center is uniform in the image, and it is clipped at the border. Labels are
    mixed in proportion to the areas after clipping.

    Arguments, results and errors are those of `mixup`, except that images keep their
    type.
    """
    images, labels = _checked(images, labels, alpha, "cutmix")
    share_seed, place_seed = tf.unstack(
        tf.random.experimental.stateless_split(_pair(seed), 2)
    )
    share = draw_beta(alpha, share_seed)
    sides = tf.shape(images)[1:3]
    extent = tf.cast(tf.cast(sides, tf.float32) * tf.sqrt(1 - share), tf.int32)
    place = tf.random.stateless_uniform([2], place_seed, alg="philox")
    middle = tf.cast(place * tf.cast(sides, tf.float32), tf.int32)
    low = tf.maximum(middle - extent // 2, 0)
    high = tf.minimum(middle - extent // 2 + extent, sides)
    rows, columns = (
        (tf.range(sides[axis]) >= low[axis]) & (tf.range(sides[axis]) < high[axis])
        for axis in (0, 1)
    )
    inside = (rows[:, None] & columns)[None, ..., None]
    box, area = tf.reduce_prod(high - low), tf.reduce_prod(sides)
    kept = 1 - tf.cast(box, tf.float32) / tf.cast(area, tf.float32)
    pasted = tf.where(inside, _partners(images, adjacent), images)
    return pasted, _blend(labels, kept, labels.dtype, adjacent)


def draw_beta(alpha: float, seed: Seed) -> tf.Tensor:
    """Draws a float32 ~ Beta(alpha, alpha), as x / (x + y) of two gamma variates."""
    gammas = tf.random.stateless_gamma([2], _pair(seed), alpha)
    # for a small alpha both may underflow to 0; then nothing is mixed
    total = tf.reduce_sum(gammas)
    return tf.where(total > 0, gammas[0] / tf.maximum(total, 1e-30), 1.0)


@tf.function(jit_compile=True)  # XLA fuses it into one pass over the images
def _blend(
    values: tf.Tensor, share: tf.Tensor, kind: tf.DType, adjacent: bool
) -> tf.Tensor:
    values = tf.cast(values, tf.float32)
    others = _partners(values, adjacent)
    return tf.cast(share * values + (1 - share) * others, kind)


def _partners(values: tf.Tensor, adjacent: bool) -> tf.Tensor:
    if not adjacent:
        return tf.reverse(values, [0])
    pairs = tf.reshape(values, [-1, 2, *values.shape[1:]])
    return tf.reshape(tf.reverse(pairs, [1]), tf.shape(values))


def _pair(seed: Seed) -> tf.Tensor:
    return tf.stack([tf.cast(part, tf.int64) for part in tf.unstack(seed)])


def _checked(
    images: tf.Tensor, labels: tf.Tensor, alpha: float, name: str
) -> tuple[tf.Tensor, tf.Tensor]:
    images, labels = tf.convert_to_tensor(images), tf.convert_to_tensor(labels)
    if not labels.dtype.is_floating or labels.shape.rank != 2:
        raise ValueError(
            f"{name} labels: {labels.dtype.name} {labels.shape}; must be one-hot, "
            "float [batch, classes], such as tf.one_hot(labels, classes)"
        )
    if not alpha > 0:
        raise ValueError(f"{name} alpha={alpha}: must be above 0")
    return images, labels
