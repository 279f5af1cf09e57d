"""Mixup and CutMix: two pictures and their labels become one."""

import tensorflow as tf


def mixup(images, labels, alpha, seed):
    """Mixes each picture with its mirror in the batch (arXiv 1710.09412).

    One share ~ Beta(alpha, alpha) a batch, as the published scripts draw it.

    Args:
        images: [B, H, W, 3], of any real type.
        labels: floating [B, K], one-hot or mixed already.
        alpha: above 0; 0.2 in arXiv 1812.01187.
        seed: a pair of integers; the same seed mixes alike.

    Returns:
        (images, labels): images in their own type if that is floating, else float32;
        labels in their own type. The share is drawn and applied in float32.

    Raises:
        ValueError: labels are class numbers, or alpha is not above 0.
    """
    images, labels = _check(images, labels, alpha, "mixup")
    share = draw_beta(alpha, seed)
    kind = images.dtype if images.dtype.is_floating else tf.float32
    return _blend(images, share, kind), _blend(labels, share, labels.dtype)


def cutmix(images, labels, alpha, seed):
    """Pastes a box of each picture's mirror in the batch into it (arXiv 1905.04899).

    One box a batch: 1 - share of the area for a share ~ Beta(alpha, alpha), its middle
    anywhere, so that the border may cut it; labels get the share that is left.

    Args, returns and raises as `mixup`, but that images keep their type.
    """
    images, labels = _check(images, labels, alpha, "cutmix")
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
    box, whole = tf.reduce_prod(high - low), tf.reduce_prod(sides)
    left = 1 - tf.cast(box, tf.float32) / tf.cast(whole, tf.float32)
    pasted = tf.where(inside, tf.reverse(images, [0]), images)
    return pasted, _blend(labels, left, labels.dtype)


def draw_beta(alpha, seed):
    """A float32 ~ Beta(alpha, alpha), as one gamma over the sum of two."""
    gammas = tf.random.stateless_gamma([2], _pair(seed), alpha)
    # both underflow together now and then where alpha is small: then no mixing
    total = tf.reduce_sum(gammas)
    return tf.where(total > 0, gammas[0] / tf.maximum(total, 1e-30), 1.0)


@tf.function(jit_compile=True)  # one pass over the pictures
def _blend(values, share, kind):
    values = tf.cast(values, tf.float32)
    return tf.cast(share * values + (1 - share) * tf.reverse(values, [0]), kind)


def _pair(seed):
    return tf.stack([tf.cast(part, tf.int64) for part in tf.unstack(seed)])


def _check(images, labels, alpha, name):
    images, labels = tf.convert_to_tensor(images), tf.convert_to_tensor(labels)
    if not labels.dtype.is_floating or labels.shape.rank != 2:
        raise ValueError(
            f"{name} labels: {labels.dtype.name} {labels.shape}; must be one-hot, "
            "float [batch, classes], such as tf.one_hot(labels, classes)"
        )
    if not alpha > 0:
        raise ValueError(f"{name} alpha={alpha}: must be above 0")
    return images, labels
